-- Records the events that lanes shed. The caller adds them to the cursor's count, and commits the
-- progress that passes them under the fence, in the same transaction.
--
-- $1 text      processor
-- $2 integer   generation
-- Arrays of one length:
-- $3 text[]    tenants
-- $4 text[]    lane keys
-- $5 text[]    progress before
-- $6 text[]    progress after
-- $7 bigint[]  number of events shed
insert into sandmill.sheds (processor, generation, tenant, lane_key, from_progress, to_progress, events)
select $1, $2, * from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
