-- Counts the events above a progress, at most $4 of them, and says how old the first of them is, in seconds.
-- $1 snapshot A text · $2 snapshot B text, the same as A between two differences · $3 last position bigint · $4 limit bigint
with above as (
  select position from (
    select position, xid from sandmill.events
    where xid >= (select pg_snapshot_xmax($1::text::pg_snapshot))
    union all
    select position, xid from sandmill.events
    where xid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
  ) e
  where not (position <= $3 and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot)))
  limit $4
)
select count(*),
       coalesce(greatest(extract(epoch from now() - (
         select recorded_at from sandmill.events where position = (select min(position) from above))), 0), 0)::double precision
from above
