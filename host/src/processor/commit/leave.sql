-- Creates lane checkpoints. From then on the cursor no longer covers these lanes, and each row has
-- the progress of its lane.
--
-- $1  text           processor
-- $2  integer        generation
-- Arrays of one length:
-- $3  smallint[]     buckets
-- $4  text[]         tenants
-- $5  text[]         lane keys
-- $6  text[]         progress
-- $7  text[]         states
-- $8  integer[]      attempts
-- $9  timestamptz[]  next attempts, or null
-- $10 text[]         classes
-- $11 text[]         reasons
-- $12 bigint[]       positions of the events that the lanes wait before, or null
-- $13 bigint[]       positions of the events to skip, or null
insert into sandmill.lane_checkpoints
  (processor, generation, bucket, tenant, lane_key, progress, state, attempts, next_at, class, reason, event_position,
   skip_position)
select $1, $2, * from unnest(
  $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::timestamptz[], $10::text[], $11::text[], $12::bigint[],
  $13::bigint[])
