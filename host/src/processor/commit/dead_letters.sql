-- Stores dead letters. A letter that the generation has already is updated, and its attempts are
-- added up.
--
-- $1  text       processor
-- $2  integer    generation
-- Arrays of one length:
-- $3  text[]     digests of the plugins
-- $4  text[]     tenants
-- $5  text[]     lane keys
-- $6  bigint[]   positions
-- $7  text[]     event ids
-- $8  text[]     classes
-- $9  text[]     messages
-- $10 integer[]  attempts
insert into sandmill.dead_letters as d
  (processor, generation, digest, tenant, lane_key, position, event_id, class, message, attempts)
select $1, $2, * from unnest(
  $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::int[])
on conflict (processor, generation, position) do update
  set digest = excluded.digest, class = excluded.class, message = excluded.message,
      attempts = least(d.attempts::bigint + excluded.attempts, 2147483647)::int
