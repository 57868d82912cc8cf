-- Locks streams in the order given and moves each forward by the number of its events; their versions afterwards. Everyone who
-- locks several gives them sorted by bytes.
-- $1 tenants text[]   $2 streams text[]   $3 numbers of events bigint[]
insert into sandmill.streams as s (tenant, stream, version)
select n.tenant, n.stream, n.added
from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as n (tenant, stream, added, ordinal)
order by n.ordinal
on conflict (tenant, stream) do update set version = s.version + excluded.version
returning s.tenant, s.stream, s.version
