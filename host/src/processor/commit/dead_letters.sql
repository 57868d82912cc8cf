-- Sets events aside.
-- $1 processor text · arrays of one length: $2 digests text[] · $3 tenants text[] · $4 keys text[] · $5 positions bigint[] · $6 event ids text[] ·
-- $7 classes text[] · $8 messages text[] · $9 attempts int[]
insert into sandmill.dead_letters (processor, digest, tenant, lane_key, position, event_id, class, message, attempts)
select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::int[])
