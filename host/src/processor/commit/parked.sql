-- Parks streams, or records that the first waiting event of a parked stream has failed again. The
-- latter answers an operator's request.
--
-- $1  text       processor
-- $2  integer    generation
-- Arrays of one length:
-- $3  text[]     tenants
-- $4  text[]     lane keys
-- $5  text[]     streams
-- $6  bigint[]   versions of the first waiting events
-- $7  bigint[]   versions of the last waiting events
-- $8  bigint[]   numbers of waiting events
-- $9  bigint[]   positions of the failed events
-- $10 text[]     their ids
-- $11 text[]     classes
-- $12 text[]     messages
-- $13 integer[]  attempts
-- $14 text[]     digests of the plugins
insert into sandmill.parked_streams as p
  (processor, generation, tenant, lane_key, stream, next_version, last_version, events, position, event_id, class, message,
   attempts, digest)
select $1, $2, * from unnest(
  $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::text[],
  $12::text[], $13::int[], $14::text[])
on conflict (processor, generation, tenant, stream) do update
  set next_version = excluded.next_version, last_version = excluded.last_version, events = excluded.events,
      position = excluded.position, event_id = excluded.event_id, class = excluded.class, message = excluded.message,
      attempts = case when p.position = excluded.position then least(p.attempts::bigint + excluded.attempts, 2147483647)::int
                 else excluded.attempts end,
      digest = excluded.digest, failed_at = now(), request = '', request_new = false
