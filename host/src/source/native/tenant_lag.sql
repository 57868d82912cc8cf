-- Counts one tenant's events that follow a progress, at most $5 of them: as lag.sql, from the index (tenant, xid, position) alone. Bounds and
-- order name its columns, as in tenant_floor.sql; the upper bound is the largest xid there can be.
-- $1 snapshot A text · $2 snapshot B text, the same as A between two differences · $3 last position bigint · $4 tenant text · $5 limit bigint
select count(*)
from (
  select from (
    (
      select position, xid from sandmill.events
      where (tenant, xid) >= ($4, (select pg_snapshot_xmax($1::text::pg_snapshot)))
        and (tenant, xid) <= ($4, '18446744073709551615'::xid8)
      order by tenant, xid
    )
    union all
    select of_one.position, of_one.xid
    from pg_snapshot_xip($1::text::pg_snapshot) as running (xid)
    cross join lateral (
      select position, xid from sandmill.events
      where (tenant, xid) >= ($4, running.xid)
        and (tenant, xid) <= ($4, running.xid)
      order by tenant, xid, position
    ) of_one
  ) e
  where not (position <= $3 and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot)))
  limit $5
) above
