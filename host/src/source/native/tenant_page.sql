-- Reads a page of one tenant's part of a difference along the index (tenant, position), from its floor on.
-- $1 snapshot text · $2 snapshot text · $3 tenant text · $4 position above which bigint · $5 position up to which bigint · $6 limit bigint
select position, id, tenant, type, stream, version, recorded_at, data, metadata
from sandmill.events
where tenant = $3
  and position > $4
  and position <= $5
  and not pg_visible_in_snapshot(xid, (select $1::text::pg_snapshot))
  and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
order by position
limit $6
