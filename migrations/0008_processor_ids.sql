-- Unique ids of processors. The id of a tenant's own processor is `TENANT/ID`, and neither part can
-- contain `/`.
--
-- Before, it was `ID--TENANT`, with other characters replaced and long names cut. Two tenants could
-- get the same id, and one's processor then continued at the other's cursor.

alter table sandmill.processors
  -- The kind of processor. Ids of all kinds share one form and one namespace.
  add column kind text collate "C" not null default 'projector' check (kind in ('projector')),
  -- The process id of the database session that commits for it, set when its last term began. A
  -- session's application_name cannot identify it: PostgreSQL cuts the name at 63 bytes.
  add column session integer,
  -- When that session began. A process id alone may be reused.
  add column session_since timestamptz;

-- Foreign keys are dropped while ids are renamed in every table that has them.
alter table sandmill.exceptions drop constraint exceptions_processor_bucket_fkey;
alter table sandmill.cursors drop constraint cursors_processor_fkey;
alter table sandmill.pauses drop constraint pauses_processor_fkey;
alter table sandmill.dead_letters drop constraint dead_letters_processor_fkey;
alter table sandmill.sheds drop constraint sheds_processor_fkey;
alter table sandmill.collections drop constraint collections_processor_fkey;
alter table sandmill.processors drop constraint processors_id_check;

-- The renamed processors. Dropped below.
create table sandmill.renamed as
select id as old, tenant || '/' || family as new, tenant from sandmill.processors where tenant <> '';

-- Lanes of other tenants, left by two processors that shared an id. No processor handles them under
-- this id; their tenant's own processor reads the log itself.
delete from sandmill.exceptions e using sandmill.renamed r where e.processor = r.old and e.tenant <> r.tenant;
delete from sandmill.pauses p using sandmill.renamed r where p.processor = r.old and p.tenant not in ('', r.tenant);

update sandmill.processors p set id = r.new from sandmill.renamed r where p.id = r.old;
update sandmill.cursors c set processor = r.new from sandmill.renamed r where c.processor = r.old;
update sandmill.exceptions e set processor = r.new from sandmill.renamed r where e.processor = r.old;
update sandmill.pauses p set processor = r.new from sandmill.renamed r where p.processor = r.old;
update sandmill.dead_letters d set processor = r.new from sandmill.renamed r where d.processor = r.old;
update sandmill.sheds s set processor = r.new from sandmill.renamed r where s.processor = r.old;
update sandmill.collections c set processor = r.new from sandmill.renamed r where c.processor = r.old;
update sandmill.tenant_usage u set error_processor = r.new from sandmill.renamed r where u.error_processor = r.old and u.tenant = r.tenant;
-- A file in another tenant's folder ran under an id that was not its own.
update sandmill.plugins p set processor = case split_part(p.plugin, '/', 1) when r.tenant then r.new else '' end
from sandmill.renamed r where p.processor = r.old;
update sandmill.plugin_versions p set processor = case split_part(p.plugin, '/', 1) when r.tenant then r.new else '' end
from sandmill.renamed r where p.processor = r.old;
drop table sandmill.renamed;

alter table sandmill.processors
  add constraint processors_id_check check (id ~ '^([A-Za-z0-9][A-Za-z0-9._-]{0,63}/)?[a-z][a-z0-9-]{0,62}$'),
  add constraint processors_parts_check check (id = case tenant when '' then family else tenant || '/' || family end);
alter table sandmill.cursors add foreign key (processor) references sandmill.processors on delete cascade;
alter table sandmill.exceptions add foreign key (processor, bucket) references sandmill.cursors on delete cascade;
alter table sandmill.pauses add foreign key (processor) references sandmill.processors on delete cascade;
alter table sandmill.dead_letters add foreign key (processor) references sandmill.processors on delete cascade;
alter table sandmill.sheds add foreign key (processor) references sandmill.processors on delete cascade;
alter table sandmill.collections add foreign key (processor) references sandmill.processors;

drop function sandmill.register(text, text, text, text, text[], text, integer, boolean, text, text, text, integer, text[]);

-- Registers a processor: creates or updates its row, its cursors and its collections. Returns false
-- and changes nothing if the plugin would build its documents differently.
--
-- * p_adopt: true also accepts documents of different event types or read-model versions, but
--   never of a different partitioning.
-- * p_tenant: the tenant that owns the processor; empty = shared by all. A tenant's processor
--   shares the collections of its family.
-- * p_progress: where it begins; null = now.
--
-- A row of another tenant, family or kind is never taken over: that raises SM423.
create function sandmill.register(
  p_id text, p_kind text, p_plugin text, p_digest text, p_version text, p_event_types text[], p_partition_by text, p_read_model_version integer, p_adopt boolean,
  p_family text, p_tenant text, p_progress text, p_buckets integer, p_collections text[]
) returns boolean
language plpgsql as $$
begin
  insert into sandmill.processors as p (id, kind, plugin, digest, version, event_types, partition_by, read_model_version, family, tenant)
  values (p_id, p_kind, p_plugin, p_digest, p_version, p_event_types, p_partition_by, p_read_model_version, p_family, p_tenant)
  on conflict (id) do update set plugin = p_plugin, digest = p_digest, version = p_version, event_types = p_event_types,
    read_model_version = p_read_model_version, started_at = now(), held = ''
  where p.kind = p_kind and p.family = p_family and p.tenant = p_tenant and p.partition_by = p_partition_by
    and (p_adopt or p.event_types is not distinct from p_event_types and p.read_model_version = p_read_model_version);
  if not found then
    if exists (select from sandmill.processors p where p.id = p_id and (p.kind, p.family, p.tenant) is distinct from (p_kind, p_family, p_tenant)) then
      raise exception 'the id % belongs to another processor', p_id
        using errcode = 'SM423', hint = 'Its kind, its plugin''s own id or its tenant differ. Give this plugin another id.';
    end if;
    return false;
  end if;
  insert into sandmill.cursors (processor, bucket, progress)
  select p_id, bucket, coalesce(p_progress, pg_current_snapshot()::text || '||') from generate_series(0, p_buckets - 1) as bucket
  on conflict do nothing;
  perform sandmill.ensure_collection(collection, coalesce((
    select owner.id from sandmill.collections c join sandmill.processors owner on owner.id = c.processor
    where c.name = collection and p_tenant <> '' and owner.tenant <> '' and owner.family = p_family
  ), p_id))
  from unnest(p_collections) as collection;
  return true;
end
$$;
