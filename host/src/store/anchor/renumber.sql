-- Gives every event the transaction id of its class. Classes are those of classes.sql.
--
-- Arrays of one length, one entry per checkpoint:
-- $1 text[]    snapshot A
-- $2 text[]    snapshot B; null between two differences
-- $3 bigint[]  last positions
-- Arrays of one length, one entry per class:
-- $4 text[]    classes
-- $5 text[]    transaction ids
-- Single value:
-- $6 bigint    position from which on no checkpoint covers an event; null = none
with checkpoints as materialized (
  select ordinal, seen::pg_snapshot, target::pg_snapshot, last
  from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as given (seen, target, last, ordinal)
),
sorted as (
  select e.position, coalesce(handled, '') as class
  from sandmill.events e
  cross join lateral (
    select string_agg(
      case when e.position < coalesce($6::bigint, e.position + 1)
                 and (pg_visible_in_snapshot(e.xid, seen) or (e.position <= last and pg_visible_in_snapshot(e.xid, target)))
           then '1' else '0' end,
      '' order by ordinal) as handled
    from checkpoints
  ) of_event
)
update sandmill.events e
set xid = numbered.xid::xid8
from sorted
join unnest($4::text[], $5::text[]) as numbered (class, xid) using (class)
where e.position = sorted.position
