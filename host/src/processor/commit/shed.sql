-- Counts what lanes skipped, beside the progress that passes it, and adds it to their processor's sum. Whoever sends it shows the fence in the
-- same transaction.
-- $1 processor text · arrays of one length: $2 tenants text[] · $3 keys text[] · $4 progress before text[] · $5 progress after text[] ·
-- $6 events bigint[]
with counted as (
  insert into sandmill.sheds (processor, tenant, lane_key, from_progress, to_progress, events)
  select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
  returning events
)
update sandmill.processors set shed_events = shed_events + (select sum(events) from counted) where id = $1
