-- Gives every event the xid of its class (see classes.sql, which sorts them in the same way).
-- Arrays of one length: $1 handled snapshots text[] · $2 snapshots read towards text[], null between two differences · $3 last positions bigint[]
-- Arrays of one length: $4 classes text[] · $5 their xids text[]
-- $6 the position from which on nobody has handled anything bigint, null = none
with place as materialized (
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
    from place
  ) of_event
)
update sandmill.events e
set xid = numbered.xid::xid8
from sorted
join unnest($4::text[], $5::text[]) as numbered (class, xid) using (class)
where e.position = sorted.position
