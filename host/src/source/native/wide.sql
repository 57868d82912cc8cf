-- Reads a page of a large difference along the primary key: events above a position that are
-- visible in snapshot B and not in A. From the difference's floor on, nearly every row belongs to
-- the difference, so a page costs about what it returns. The position must not be below that floor.
-- Data and metadata above the limit are not read and are null: this limit and the number of rows
-- bound what arrives.
--
-- $1 text     snapshot A
-- $2 text     snapshot B
-- $3 bigint   position above which the page begins
-- $4 bigint   maximum number of events
-- $5 integer  maximum bytes of data or metadata
select position, id, tenant, type, stream, version, recorded_at,
  case when pg_column_size(data) <= $5 and (pg_column_compression(data) is null or octet_length(data::text) <= $5) then data end,
  case when pg_column_size(metadata) <= 32 or pg_column_size(metadata) <= $5 and octet_length(metadata::text) <= $5 then metadata end
from sandmill.events
where position > $3
  and not pg_visible_in_snapshot(xid, (select $1::text::pg_snapshot))
  and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
order by position
limit $4
