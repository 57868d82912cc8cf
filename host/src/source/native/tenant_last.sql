-- Reads one tenant's last events up to a position, backwards along the index (tenant, position): as last.sql. Bounds and order name both columns, as in
-- tenant_page.sql; the lower bound is the smallest position there can be.
-- Data and metadata larger than $6 bytes stay where they are and are null here: what arrives is bounded by the two limits.
-- $1 position bigint · $2 types text[] or null for all · $3 events looked at bigint · $4 limit bigint · $5 tenant text
-- $6 bytes integer
select position, id, tenant, type, stream, version, recorded_at,
  case when pg_column_size(data) <= $6 and (pg_column_compression(data) is null or octet_length(data::text) <= $6) then data end,
  case when pg_column_size(metadata) <= 32 or pg_column_size(metadata) <= $6 and octet_length(metadata::text) <= $6 then metadata end
from (
  select * from sandmill.events
  where (tenant, position) >= ($5, '-9223372036854775808'::bigint)
    and (tenant, position) <= ($5, $1)
  order by tenant desc, position desc
  limit $3
) e
where $2::text[] is null or type = any ($2)
limit $4
