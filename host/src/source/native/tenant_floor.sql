-- Finds the beginning of one tenant's part of a difference, like floor.sql, with the index (tenant,
-- xid, position) only. Bounds and order name its columns one by one. Otherwise PostgreSQL would
-- look up a tenant without statistics in any index that begins with the tenant.
--
-- $1 text  snapshot A
-- $2 text  snapshot B
-- $3 text  tenant
select min(position)
from (
  (
    select position from sandmill.events
    where (tenant, xid) >= ($3, (select pg_snapshot_xmax($1::text::pg_snapshot)))
      and (tenant, xid) < ($3, (select pg_snapshot_xmax($2::text::pg_snapshot)))
      and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
    order by tenant, xid
  )
  union all
  select of_one.position
  from pg_snapshot_xip($1::text::pg_snapshot) as finished (xid)
  cross join lateral (
    select position from sandmill.events
    where (tenant, xid) >= ($3, finished.xid)
      and (tenant, xid) <= ($3, finished.xid)
    order by tenant, xid, position
    limit 1
  ) of_one
  where pg_visible_in_snapshot(finished.xid, $2::text::pg_snapshot)
) e
