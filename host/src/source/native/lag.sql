-- Counts the events that follow each of some progresses, in any transaction, up to a limit, and
-- finds the lowest position counted. Returns one row for each progress: its number from 1, the
-- count, the position or null.
--
-- "offset 0" keeps the casts out of the filter, so they are computed once for each progress.
--
-- $1 text[]    snapshots A
-- $2 text[]    snapshots B; equal to A between two differences
-- $3 bigint[]  last positions
-- $4 bigint    maximum number of events counted for each
select given.number, counted.events, counted.first
from (
  select number, a::pg_snapshot, b::pg_snapshot, last
  from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as progress (a, b, last, number)
  offset 0
) given
cross join lateral (
  select count(*) as events, min(position) as first
  from (
    select position
    from (
      select position, xid from sandmill.events
      where xid >= pg_snapshot_xmax(given.a)
      union all
      select position, xid from sandmill.events
      where xid = any (array(select pg_snapshot_xip(given.a)))
    ) e
    where not (position <= given.last and pg_visible_in_snapshot(xid, given.b))
    limit $4
  ) above
) counted
