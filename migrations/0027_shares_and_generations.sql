-- Shares and generations: one cursor per share of a processor's lanes instead of sixteen equal
-- ones, and a generation in every row that records progress, dead letters or shed events.
--
-- A generation is one build of a processor's documents, with its own cursors, lane checkpoints and
-- dead letters. Generation 1 begins when the processor is registered. Generation `g` of a processor
-- writes the tables `sandmill_documents.c{number}_{g}` of its collections, and
-- `collections.generation` names the table that readers see: that of the serving generation.
--
-- A share is a range of buckets within a generation. Its cursor covers the lanes of these buckets,
-- and its owner commits under the fence of this one row. The ranges of a generation are a partition
-- of all buckets; so far, one share owns all of them. Before, each bucket had a cursor, and each
-- commit rewrote all sixteen with the same progress.
--
-- Counts and reports move from `processors` to the cursor: commits of several shares would wait for
-- each other at the row of their processor. Rates and measures are not copied, because the next
-- report replaces them.
--
-- Re-anchoring compares the transactions that wrote cursors with those that wrote events
-- (`store/anchor/since.sql`). So a cursor is updated here only if it would lose a value otherwise.

-- Sixteen cursors with one progress become one cursor. Others have no equivalent.
do $$
declare
  v_cursors record;
begin
  select c.processor, count(*) as number, count(distinct c.progress::text) as progresses into v_cursors
  from sandmill.cursors c
  group by c.processor
  having count(*) <> 16 or count(distinct c.progress::text) > 1
  order by c.processor
  limit 1;
  if found then
    raise exception 'processor % has % cursors with % different progresses; only 16 cursors with the same progress can become one',
        v_cursors.processor, v_cursors.number, v_cursors.progresses
      using errcode = 'SM423',
            hint = format('Another program changed these cursors. Restore them from a backup; or run sandmill processors remove %s with the version of Sandmill that you used before, so that the processor starts again. Then migrate again.', v_cursors.processor);
  end if;
end
$$;

-- The generations of processors.
create table sandmill.generations (
  -- The processor.
  processor text collate "C" not null references sandmill.processors on delete cascade,
  -- The generation's number, counted from 1.
  generation integer not null check (generation > 0),
  -- The generation's state:
  -- * serving: readers see its documents.
  state text not null check (state in ('serving')),
  primary key (processor, generation)
);
create unique index generations_serving on sandmill.generations (processor) where state = 'serving';
insert into sandmill.generations (processor, generation, state) select id, 1, 'serving' from sandmill.processors;

-- Cursors. Their fences differ after a re-anchoring that no term followed. Then the one that
-- remains gets a fence that no host has.
alter table sandmill.lane_checkpoints drop constraint lane_checkpoints_processor_bucket_fkey;
update sandmill.cursors c set handled = whole.handled, fence = whole.fence
from (
  select processor, sum(handled)::bigint as handled,
         case when min(fence) = max(fence) then min(fence) else gen_random_uuid()::text end as fence
  from sandmill.cursors
  group by processor
) whole
where c.processor = whole.processor and c.bucket = 0 and (c.handled, c.fence) is distinct from (whole.handled, whole.fence);
delete from sandmill.cursors where bucket <> 0;
alter table sandmill.cursors rename column bucket to share;
alter table sandmill.cursors rename constraint cursors_bucket_check to cursors_share_check;
alter table sandmill.cursors
  drop constraint cursors_pkey,
  drop constraint cursors_processor_fkey,
  -- The generation.
  add column generation integer not null default 1,
  -- The first bucket of the share.
  add column first_bucket smallint not null default 0,
  -- The last bucket of the share.
  add column last_bucket smallint not null default 15,
  -- Number of events shed: the sum of the share's rows in `sheds`, kept to avoid adding them up.
  add column shed_events bigint not null default 0 check (shed_events >= 0),
  -- Recent events per second. For people: written with a commit, at most once a second.
  add column rate double precision not null default 0,
  -- What the host measured since the report before, as a JSON object: averages in milliseconds, its
  -- memory in MiB.
  add column measures json not null default '{}',
  -- When `rate` and `measures` were last written.
  add column reported_at timestamptz not null default now(),
  add primary key (processor, generation, share),
  add foreign key (processor, generation) references sandmill.generations on delete cascade,
  add constraint cursors_buckets_check check (first_bucket between 0 and last_bucket and last_bucket <= 15);
alter table sandmill.cursors
  alter column generation drop default,
  alter column first_bucket drop default,
  alter column last_bucket drop default;
update sandmill.cursors c set shed_events = p.shed_events
from sandmill.processors p
where p.id = c.processor and p.shed_events > 0;
alter table sandmill.processors
  drop column shed_events,
  drop column rate,
  drop column measures,
  drop column reported_at;

-- Lane checkpoints keep their bucket, which determines the share that they belong to.
alter table sandmill.lane_checkpoints
  drop constraint lane_checkpoints_pkey,
  -- The generation.
  add column generation integer not null default 1,
  add primary key (processor, generation, tenant, lane_key),
  add foreign key (processor, generation) references sandmill.generations on delete cascade,
  add constraint lane_checkpoints_bucket_check check (bucket between 0 and 15);
alter table sandmill.lane_checkpoints alter column generation drop default;
drop index sandmill.lane_checkpoints_resumed;
create index lane_checkpoints_resumed on sandmill.lane_checkpoints (processor, generation) where resumed;

-- Dead letters. Each generation may set the same event aside. A generation that handles an event
-- again updates its letter, and adds up the attempts.
alter table sandmill.dead_letters
  drop constraint dead_letters_pkey,
  drop constraint dead_letters_processor_fkey,
  -- The generation.
  add column generation integer not null default 1,
  add primary key (processor, generation, position),
  add foreign key (processor, generation) references sandmill.generations on delete cascade;
alter table sandmill.dead_letters alter column generation drop default;

-- Jumps of lanes to the head of the log.
alter table sandmill.sheds
  drop constraint sheds_processor_fkey,
  -- The generation.
  add column generation integer not null default 1,
  add foreign key (processor, generation) references sandmill.generations on delete cascade;
alter table sandmill.sheds alter column generation drop default;
drop index sandmill.sheds_processor_id_idx;
create index sheds_processor_generation_id_idx on sandmill.sheds (processor, generation, id);

-- Registers a processor: creates or updates its row, its first generation with one share, and its
-- collections. Returns false and changes nothing if the plugin would build its documents
-- differently.
--
-- * p_adopt: true also accepts documents of different event types or read-model versions, but
--   never of a different partitioning.
-- * p_tenant: the tenant that owns the processor; empty = shared by all. It may have
--   p_most_collections at most.
-- * p_progress: where it begins; null = now.
-- * p_buckets: the number of buckets.
--
-- A row of another tenant, family or kind is never taken over: that raises SM423.
create or replace function sandmill.register(
  p_id text, p_kind text, p_plugin text, p_digest text, p_version text, p_event_types text[], p_partition_by text, p_read_model_version integer, p_adopt boolean,
  p_family text, p_tenant text, p_progress text, p_buckets integer, p_collections text[], p_most_collections integer
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
        using errcode = 'SM423', hint = 'That processor has another kind, plugin id or tenant. Give this plugin another id.';
    end if;
    return false;
  end if;
  -- The row of the processor is locked, so no other registration of it is in progress.
  insert into sandmill.generations (processor, generation, state)
  select p_id, 1, 'serving'
  where not exists (select from sandmill.generations g where g.processor = p_id);
  insert into sandmill.cursors (processor, generation, share, first_bucket, last_bucket, progress)
  select g.processor, g.generation, 0, 0, p_buckets - 1, coalesce(p_progress, pg_current_snapshot()::text || '||')
  from sandmill.generations g
  where g.processor = p_id and g.state = 'serving'
    and not exists (select from sandmill.cursors c where c.processor = p_id and c.generation = g.generation);
  -- In the order of names, so that two registrations do not deadlock.
  perform sandmill.ensure_collection(p_tenant, collection, p_id, p_adopt, p_most_collections)
  from (select collection from unnest(p_collections) as collection order by collection) listed;
  return true;
end
$$;
