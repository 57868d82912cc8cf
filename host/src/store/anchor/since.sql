-- Finds events that were appended in this cluster after all cursors were written, by the transactions that wrote their rows. Rows that a
-- dump brought have foreign transaction ids and, mostly, one writer. Two results: the first position of an event that certainly was
-- appended here, and how many events before it may have been, with the first and last of these.
--
-- A row says by xmin which transaction wrote it here. An append writes its own transaction into the column xid; in a subtransaction it
-- writes its parent's, which is older; that could be chance only where a dump was restored row by row, each with a writer of its own, as
-- the cursors of one processor show. There the stream's row must have the same writer. No cursor can have handled what was written after it, however
-- its snapshot reads. So this is true as well where rows came here physically, by pg_upgrade: nothing is found then that the
-- snapshots do not say too.
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
