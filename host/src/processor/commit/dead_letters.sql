-- Stores dead letters.
--
-- $1 text       processor
-- Arrays of one length:
-- $2 text[]     digests of the plugins
-- $3 text[]     tenants
-- $4 text[]     lane keys
-- $5 bigint[]   positions
-- $6 text[]     event ids
-- $7 text[]     classes
-- $8 text[]     messages
-- $9 integer[]  attempts
insert into sandmill.dead_letters (processor, digest, tenant, lane_key, position, event_id, class, message, attempts)
select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::int[])
