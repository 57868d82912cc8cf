-- Groups events by the checkpoints that have handled them. Each class is a string with one digit
-- per checkpoint, 1 = handled, and its number of events. Transaction ids are only compared with
-- each other, so any cluster's will do.
--
-- Arrays of one length, one entry per checkpoint:
-- $1 text[]    snapshot A
-- $2 text[]    snapshot B; null between two differences
-- $3 bigint[]  last positions
-- Single value:
-- $4 bigint    position from which on no checkpoint covers an event; null = none
with checkpoints as materialized (
  select ordinal, seen::pg_snapshot, target::pg_snapshot, last
  from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as given (seen, target, last, ordinal)
)
select coalesce(handled, ''), count(*)
from sandmill.events e
cross join lateral (
  select string_agg(
    case when e.position < coalesce($4::bigint, e.position + 1)
               and (pg_visible_in_snapshot(e.xid, seen) or (e.position <= last and pg_visible_in_snapshot(e.xid, target)))
         then '1' else '0' end,
    '' order by ordinal) as handled
  from checkpoints
) of_event
group by 1
order by 1
