-- Creates lane checkpoints. From then on the cursor no longer covers these lanes, and each row has
-- the progress of its lane.
--
-- $1  text           processor
-- Arrays of one length:
-- $2  smallint[]     buckets
-- $3  text[]         tenants
-- $4  text[]         lane keys
-- $5  text[]         progress
-- $6  text[]         states
-- $7  integer[]      attempts
-- $8  timestamptz[]  next attempts, or null
-- $9  text[]         classes
-- $10 text[]         reasons
-- $11 bigint[]       positions of the events that the lanes wait before, or null
insert into sandmill.lane_checkpoints
  (processor, bucket, tenant, lane_key, progress, state, attempts, next_at, class, reason, event_position)
select $1, * from unnest(
  $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::timestamptz[], $9::text[], $10::text[], $11::bigint[])
