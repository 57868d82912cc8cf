-- Finds events that were appended in this cluster after all cursors were written. The transactions
-- that wrote their rows show it. Returns the first position of an event that was certainly appended
-- here. Also returns the number of earlier events that may have been, and the first and last of
-- these. No binds.
--
-- xmin is the transaction that wrote a row in this cluster. An append writes its own transaction id
-- into the column `xid`, too. In a subtransaction it writes the id of the parent, which is older.
-- In a restored dump, rows have foreign ids in `xid` and mostly one writer.
--
-- An older id could be a coincidence only if a dump was restored row by row, each row in its own
-- transaction. The cursors of a processor show that. Then the stream's row must also have the same
-- writer.
--
-- No cursor can have handled what was written after it, no matter what its snapshot contains. So
-- the result is also right where rows came here physically, by pg_upgrade: then it finds nothing
-- that the snapshots do not show as well.
with cursor as materialized (
  select min(age) as age, coalesce(bool_or(has_many_writers), false) as came_row_by_row
  from (
    select min(age(xmin)) as age, min(xmin::text) <> max(xmin::text) as has_many_writers
    from sandmill.cursors group by processor
  ) of_processor
),
written as materialized (
  select e.xmin as writer, min(e.position) as first, max(e.position) as last, count(*) as events,
         min(e.xid::text) = max(e.xid::text) as has_one_xid,
         bool_and(e.xid::xid = e.xmin) as is_own,
         bool_or(s.xmin = e.xmin) as moved_its_stream,
         bool_and(age(e.xid::xid) >= age(e.xmin) and age(e.xid::xid) < cursor.age) as may_be_parent
  from sandmill.events e
  cross join cursor
  left join sandmill.streams s on s.tenant = e.tenant and s.stream = e.stream
  where age(e.xmin) < cursor.age
  group by e.xmin
),
certain as (
  select min(first) as position from written 
  where has_one_xid and (is_own or may_be_parent and (moved_its_stream or not (select came_row_by_row from cursor)))
)
select certain.position, coalesce(sum(written.events), 0)::bigint, min(written.first), max(written.last)
from certain
left join written on written.has_one_xid and written.may_be_parent and not written.is_own
                 and written.first < coalesce(certain.position, written.first + 1)
group by certain.position
