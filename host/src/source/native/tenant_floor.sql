-- Finds where one tenant's part of a difference begins: as floor.sql, from the index (tenant, xid, position) alone.
-- $1 snapshot text · $2 snapshot text · $3 tenant text
select min(position)
from (
  select position from sandmill.events
  where tenant = $3
    and xid >= (select pg_snapshot_xmax($1::text::pg_snapshot))
    and xid < (select pg_snapshot_xmax($2::text::pg_snapshot))
    and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
  union all
  select position from sandmill.events
  where tenant = $3
    and xid = any (array(
      select x from pg_snapshot_xip($1::text::pg_snapshot) x where pg_visible_in_snapshot(x, $2::text::pg_snapshot)
    ))
) e
