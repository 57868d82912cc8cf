-- Registers a processor, or says that it runs again, unless its documents were built by other means than the plugin's.
-- $1 id text · $2 plugin text · $3 digest text · $4 version text · $5 event types text[] or null · $6 partition by text · $7 read-model version int · $8 whether
-- documents built of other event types or by another read-model version are gone on with boolean · $9 the id that the plugin gives itself text · $10 whose it is text, empty for everybody's
insert into sandmill.processors as p (id, plugin, digest, version, event_types, partition_by, read_model_version, family, tenant)
values ($1, $2, $3, $4, $5, $6, $7, $9, $10)
on conflict (id) do update set plugin = $2, digest = $3, version = $4, event_types = $5, read_model_version = $7, started_at = now(), held = ''
where p.partition_by = $6 and ($8 or p.event_types is not distinct from $5 and p.read_model_version = $7)
