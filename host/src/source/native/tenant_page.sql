-- Reads a page of one tenant's part of a difference along the index (tenant, position), from its floor on. Bounds and order name both
-- columns, so that a walk along the primary key, past all other tenants' events, is no way to answer it.
-- Data and metadata larger than $7 bytes stay where they are and are null here: what arrives is bounded by the two limits.
-- $1 snapshot text · $2 snapshot text · $3 tenant text · $4 position above which bigint · $5 position up to which bigint · $6 limit bigint
-- $7 bytes integer
select position, id, tenant, type, stream, version, recorded_at,
  case when pg_column_size(data) <= $7 and (pg_column_compression(data) is null or octet_length(data::text) <= $7) then data end,
  case when pg_column_size(metadata) <= 32 or pg_column_size(metadata) <= $7 and octet_length(metadata::text) <= $7 then metadata end
from sandmill.events
where (tenant, position) > ($3, $4)
  and (tenant, position) <= ($3, $5)
  and not pg_visible_in_snapshot(xid, (select $1::text::pg_snapshot))
  and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
order by tenant, position
limit $6
