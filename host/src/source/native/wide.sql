-- Reads a page of a large difference along the primary key: events above position $3 visible in the snapshot $2 and not in $1.
-- From the difference's floor on, nearly every row it passes belongs to it, so a page costs what it holds. Never call it with a
-- position below that floor.
-- Data and metadata larger than $5 bytes stay where they are and are null here: what arrives is bounded by the two limits.
-- $1 snapshot text · $2 snapshot text · $3 position bigint · $4 limit bigint · $5 bytes integer
select position, id, tenant, type, stream, version, recorded_at,
  case when pg_column_size(data) <= $5 and (pg_column_compression(data) is null or octet_length(data::text) <= $5) then data end,
  case when pg_column_size(metadata) <= 32 or pg_column_size(metadata) <= $5 and octet_length(metadata::text) <= $5 then metadata end
from sandmill.events
where position > $3
  and not pg_visible_in_snapshot(xid, (select $1::text::pg_snapshot))
  and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
order by position
limit $4
