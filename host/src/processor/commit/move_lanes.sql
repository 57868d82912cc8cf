-- Updates lane checkpoints. Fails the transaction if one of them has moved. The caller checks the
-- fence in the same transaction.
--
-- $1  text           processor
-- $2  integer        generation
-- Arrays of one length:
-- $3  text[]         tenants
-- $4  text[]         lane keys
-- $5  text[]         progress before
-- $6  text[]         progress after
-- $7  text[]         states
-- $8  integer[]      attempts
-- $9  timestamptz[]  next attempts, or null
-- $10 text[]         classes
-- $11 text[]         reasons
-- $12 bigint[]       positions of the events that the lanes wait before, or null
-- $13 bigint[]       positions of the events to skip, or null
with given as (
  select * from unnest(
    $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::timestamptz[], $10::text[], $11::text[], $12::bigint[],
    $13::bigint[])
  as given (tenant, lane_key, before, after, state, attempts, next_at, class, reason, event_position, skip_position)
),
moved as (
  update sandmill.lane_checkpoints e
  set progress = given.after, state = given.state, attempts = given.attempts, next_at = given.next_at, class = given.class,
      reason = given.reason, event_position = given.event_position, skip_position = given.skip_position, resumed = false,
      since = case when e.state = given.state and e.reason = given.reason then e.since else now() end
  from given
  where e.processor = $1 and e.generation = $2 and e.tenant = given.tenant and e.lane_key = given.lane_key
    and e.progress::text = given.before
  returning 1
)
select sandmill.must_change('move lanes of ' || $1, cardinality($3), (select count(*) from moved))
