-- Reads a page of a large difference along the primary key: events above position $3 visible in the snapshot $2 and not in $1.
-- From the difference's floor on, nearly every row it passes belongs to it, so a page costs what it holds. Never call it with a
-- position below that floor.
-- $1 snapshot text · $2 snapshot text · $3 position bigint · $4 limit bigint
select position, id, tenant, type, stream, version, recorded_at, data, metadata
from sandmill.events
where position > $3
  and not pg_visible_in_snapshot(xid, (select $1::text::pg_snapshot))
  and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
order by position
limit $4
