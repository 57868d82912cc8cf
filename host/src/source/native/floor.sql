-- Finds the beginning of a difference: the lowest position visible in snapshot B and not in A, or
-- null if the difference is empty. Reads only the index (xid, position). "offset 0" keeps
-- PostgreSQL from walking the primary key from the beginning of the log to the first event of the
-- difference.
--
-- $1 text  snapshot A
-- $2 text  snapshot B
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
