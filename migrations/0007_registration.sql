-- Registration of a processor as one function call, so that a start with many processors is one
-- round trip.

-- Registers a processor: creates or updates its row, its cursors and its collections. Returns false
-- and changes nothing if the plugin would build its documents differently.
--
-- * p_adopt: true also accepts documents of different event types or read-model versions, but
--   never of a different partitioning.
-- * p_tenant: the tenant that owns the processor; empty = shared by all. A tenant's processor
--   shares the collections of its family.
-- * p_progress: where it begins; null = now.
create function sandmill.register(
  p_id text, p_plugin text, p_digest text, p_version text, p_event_types text[], p_partition_by text, p_read_model_version integer, p_adopt boolean,
  p_family text, p_tenant text, p_progress text, p_buckets integer, p_collections text[]
) returns boolean
language plpgsql as $$
begin
  insert into sandmill.processors as p (id, plugin, digest, version, event_types, partition_by, read_model_version, family, tenant)
  values (p_id, p_plugin, p_digest, p_version, p_event_types, p_partition_by, p_read_model_version, p_family, p_tenant)
  on conflict (id) do update set plugin = p_plugin, digest = p_digest, version = p_version, event_types = p_event_types,
    read_model_version = p_read_model_version, started_at = now(), held = ''
  where p.partition_by = p_partition_by
    and (p_adopt or p.event_types is not distinct from p_event_types and p.read_model_version = p_read_model_version);
  if not found then
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
