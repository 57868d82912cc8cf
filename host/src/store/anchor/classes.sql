-- Sorts events by who has handled them: one row for each combination that occurs, as a text with a 1 or 0 for each place, and how many
-- events it has. Nothing but numbers is compared, so it does not matter whose they are.
-- Arrays of one length: $1 handled snapshots text[] · $2 snapshots read towards text[], null between two differences · $3 last positions bigint[]
-- $4 the position from which on nobody has handled anything bigint, null = none
with place as materialized (
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
  from place
) of_event
group by 1
order by 1
