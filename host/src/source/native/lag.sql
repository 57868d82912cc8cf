-- Counts the events that follow a progress, whatever their transactions, at most $4 of them: enough to know that they are many.
-- $1 snapshot A text · $2 snapshot B text, the same as A between two differences · $3 last position bigint · $4 limit bigint
select count(*)
from (
  select from (
    select position, xid from sandmill.events
    where xid >= (select pg_snapshot_xmax($1::text::pg_snapshot))
    union all
    select position, xid from sandmill.events
    where xid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
  ) e
  where not (position <= $3 and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot)))
  limit $4
) above
