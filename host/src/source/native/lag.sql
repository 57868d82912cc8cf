-- Counts the events that follow a progress, in any transaction, up to a limit: enough to know that
-- there are many.
--
-- $1 text    snapshot A
-- $2 text    snapshot B; equal to A between two differences
-- $3 bigint  last position
-- $4 bigint  most events counted
select count(*)
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
