-- Counts the events that lanes shed, and adds them to their processor's sum. The caller checks the
-- fence and commits the progress that passes these events in the same transaction.
--
-- $1 text      processor
-- Arrays of one length:
-- $2 text[]    tenants
-- $3 text[]    lane keys
-- $4 text[]    progress before
-- $5 text[]    progress after
-- $6 bigint[]  number of events shed
with counted as (
  insert into sandmill.sheds (processor, tenant, lane_key, from_progress, to_progress, events)
  select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
  returning events
)
update sandmill.processors set shed_events = shed_events + (select sum(events) from counted) where id = $1
