-- Finds where a difference begins: the lowest position visible in the snapshot $2 and not visible in $1; null where it is empty.
-- Answered from the index (xid, position) alone. "offset 0" keeps the minimum from becoming a walk along the primary key, from the
-- beginning of the log to the first event that is in the difference.
-- $1 snapshot text · $2 snapshot text
select min(position)
from (
  select position from sandmill.events
  where xid >= (select pg_snapshot_xmax($1::text::pg_snapshot))
    and xid < (select pg_snapshot_xmax($2::text::pg_snapshot))
    and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
  union all
  select position from sandmill.events
  where xid = any (array(
    select x from pg_snapshot_xip($1::text::pg_snapshot) x where pg_visible_in_snapshot(x, $2::text::pg_snapshot)
  ))
  offset 0
) e
