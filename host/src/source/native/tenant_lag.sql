-- Counts one tenant's events that follow a progress, up to a limit, like lag.sql, with the index
-- (tenant, xid, position) only. Bounds and order name its columns, as in tenant_floor.sql. The
-- upper bound is the largest possible transaction id.
--
-- $1 text    snapshot A
-- $2 text    snapshot B; equal to A between two differences
-- $3 bigint  last position
-- $4 text    tenant
-- $5 bigint  most events counted
select count(*)
from (
  select from (
    (
      select position, xid from sandmill.events
      where (tenant, xid) >= ($4, (select pg_snapshot_xmax($1::text::pg_snapshot)))
        and (tenant, xid) <= ($4, '18446744073709551615'::xid8)
      order by tenant, xid
    )
    union all
    select of_one.position, of_one.xid
    from pg_snapshot_xip($1::text::pg_snapshot) as running (xid)
    cross join lateral (
      select position, xid from sandmill.events
      where (tenant, xid) >= ($4, running.xid)
        and (tenant, xid) <= ($4, running.xid)
      order by tenant, xid, position
    ) of_one
  ) e
  where not (position <= $3 and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot)))
  limit $5
) above
