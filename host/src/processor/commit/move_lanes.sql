-- Moves lanes behind the cursor, each if it stands where it was read; fails the transaction otherwise. Whoever sends it shows the fence in the
-- same transaction.
-- $1 processor text · arrays of one length: $2 tenants text[] · $3 keys text[] · $4 progress before text[] · $5 progress after text[] ·
-- $6 states text[] · $7 attempts int[] · $8 next attempt timestamptz[] · $9 classes text[] · $10 reasons text[] · $11 event positions bigint[]
with given as (
  select * from unnest(
    $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::timestamptz[], $9::text[], $10::text[], $11::bigint[])
  as given (tenant, lane_key, before, after, state, attempts, next_at, class, reason, event_position)
),
moved as (
  update sandmill.lane_checkpoints e
  set progress = given.after, state = given.state, attempts = given.attempts, next_at = given.next_at, class = given.class,
      reason = given.reason, event_position = given.event_position, resumed = false,
      since = case when e.state = given.state and e.reason = given.reason then e.since else now() end
  from given
  where e.processor = $1 and e.tenant = given.tenant and e.lane_key = given.lane_key and e.progress::text = given.before
  returning 1
)
select sandmill.must_change('move lanes of ' || $1, cardinality($2), (select count(*) from moved))
