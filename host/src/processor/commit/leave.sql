-- Leaves lanes behind: from here on the cursor passes them, and this row says where each stands.
-- $1 processor text · arrays of one length: $2 buckets smallint[] · $3 tenants text[] · $4 keys text[] · $5 progress text[] ·
-- $6 states text[] · $7 attempts int[] · $8 next attempt timestamptz[] · $9 classes text[] · $10 reasons text[] · $11 event positions bigint[]
insert into sandmill.lane_checkpoints
  (processor, bucket, tenant, lane_key, progress, state, attempts, next_at, class, reason, event_position)
select $1, * from unnest(
  $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::timestamptz[], $9::text[], $10::text[], $11::bigint[])
