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
-- transaction. Streams show that: an append writes a stream together with its events, and a restore
-- that is not row by row gives all other streams one writer. If they have several, the stream's row
-- must also have the event's writer.
--
-- No cursor can have handled what was written after it, no matter what its snapshot contains. So
-- the result is also right where rows came here physically, by pg_upgrade: then it finds nothing
-- that the snapshots do not show as well.
with cursor as materialized (
  select min(age(xmin)) as age from sandmill.cursors
),
restored as materialized (
  select count(distinct s.xmin::text) > 1 as row_by_row
  from sandmill.streams s
  where not exists (
    select from sandmill.events e where e.tenant = s.tenant and e.stream = s.stream and e.xmin = s.xmin
  )
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
  where has_one_xid and (is_own or may_be_parent and (moved_its_stream or not (select row_by_row from restored)))
)
select certain.position, coalesce(sum(written.events), 0)::bigint, min(written.first), max(written.last)
from certain
left join written on written.has_one_xid and written.may_be_parent and not written.is_own
                 and written.first < coalesce(certain.position, written.first + 1)
group by certain.position
