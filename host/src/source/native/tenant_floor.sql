-- Finds where one tenant's part of a difference begins: as floor.sql, from the index (tenant, xid, position) alone. Bounds and order
-- name its columns one by one, as a tenant that statistics do not know would otherwise be looked up by any index that begins with it.
-- $1 snapshot text · $2 snapshot text · $3 tenant text
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
