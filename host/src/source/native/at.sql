-- Reads a tenant's events at some positions. Data and metadata above the limit are not read and are
-- null: this limit and the number of rows bound what arrives.
--
-- $1 text      tenant
-- $2 bigint[]  positions
-- $3 bigint    maximum number of events
-- $4 integer   maximum bytes of data or metadata
select position, id, tenant, type, stream, version, recorded_at,
  case when pg_column_size(data) <= $4 and (pg_column_compression(data) is null or octet_length(data::text) <= $4) then data end,
  case when pg_column_size(metadata) <= 32 or pg_column_size(metadata) <= $4 and octet_length(metadata::text) <= $4 then metadata end
from sandmill.events
where position = any($2) and tenant = $1
order by position
limit $3
