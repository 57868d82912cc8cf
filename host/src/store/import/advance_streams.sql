-- Locks streams in the given order and adds the number of new events to their versions. Returns the
-- new versions. To avoid deadlocks, every caller passes streams sorted by bytes.
--
-- Arrays of one length:
-- $1 text[]    tenants
-- $2 text[]    streams
-- $3 bigint[]  number of events
insert into sandmill.streams as s (tenant, stream, version)
select n.tenant, n.stream, n.added
from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as n (tenant, stream, added, ordinal)
order by n.ordinal
on conflict (tenant, stream) do update set version = s.version + excluded.version
returning s.tenant, s.stream, s.version
