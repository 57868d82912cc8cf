-- Counts the events of tenants that follow a progress, up to a limit, like lag.sql, with the index
-- (tenant, xid, position) only. Returns one row for each pair of a tenant and a progress that
-- events follow: the tenant, the progress's number from 1, the count, the lowest position counted.
--
-- Bounds and order name the index's columns, as in tenant_floor.sql. The upper bound is the largest
-- possible transaction id.
--
-- $1 text[]    tenants of the pairs
-- $2 bigint[]  numbers of the pairs' progresses
-- $3 text[]    snapshots A
-- $4 text[]    snapshots B; equal to A between two differences
-- $5 bigint[]  last positions
-- $6 bigint    maximum number of events counted for each pair
select pair.tenant, pair.number, counted.events, counted.first
from unnest($1::text[], $2::bigint[]) as pair (tenant, number)
join (
  select number, a::pg_snapshot, b::pg_snapshot, last
  from unnest($3::text[], $4::text[], $5::bigint[]) with ordinality as progress (a, b, last, number)
  offset 0
) given on given.number = pair.number
cross join lateral (
  select count(*) as events, min(position) as first
  from (
    select position
    from (
      (
        select position, xid from sandmill.events
        where (tenant, xid) >= (pair.tenant, pg_snapshot_xmax(given.a))
          and (tenant, xid) <= (pair.tenant, '18446744073709551615'::xid8)
        order by tenant, xid
      )
      union all
      select of_one.position, of_one.xid
      from pg_snapshot_xip(given.a) as running (xid)
      cross join lateral (
        select position, xid from sandmill.events
        where (tenant, xid) >= (pair.tenant, running.xid)
          and (tenant, xid) <= (pair.tenant, running.xid)
        order by tenant, xid, position
      ) of_one
    ) e
    where not (position <= given.last and pg_visible_in_snapshot(xid, given.b))
    limit $6
  ) above
) counted
where counted.events > 0
