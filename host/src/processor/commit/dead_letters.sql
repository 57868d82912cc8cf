-- Stores dead letters. A letter that the generation has already is updated: its attempts are added
-- up, its first time stays, and an operator's request is answered.
--
-- $1  text       processor
-- $2  integer    generation
-- Arrays of one length:
-- $3  text[]     digests of the plugins
-- $4  text[]     tenants
-- $5  text[]     lane keys
-- $6  bigint[]   positions
-- $7  text[]     event ids
-- $8  text[]     streams
-- $9  bigint[]   versions of the events in their streams
-- $10 text[]     classes
-- $11 text[]     messages
-- $12 integer[]  attempts
-- $13 text[]     backtraces; empty = none
-- $14 text[]     last log lines; empty = none
insert into sandmill.dead_letters as d
  (processor, generation, digest, tenant, lane_key, position, event_id, stream, stream_version, class, message, attempts,
   backtrace, log_tail)
select $1, $2, * from unnest(
  $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::bigint[], $10::text[], $11::text[], $12::int[],
  $13::text[], $14::text[])
on conflict (processor, generation, position) do update
  set digest = case when excluded.digest = '' then d.digest else excluded.digest end, class = excluded.class,
      message = excluded.message, backtrace = excluded.backtrace, log_tail = excluded.log_tail, last_at = excluded.last_at,
      attempts = least(d.attempts::bigint + excluded.attempts, 2147483647)::int, request = '', request_new = false
