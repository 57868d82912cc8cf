-- Reads one tenant's last events up to a position, like last.sql, backwards along the index
-- (tenant, position). Bounds and order name both columns, as in tenant_page.sql. The lower bound is
-- the smallest possible position. Data and metadata above the limit are not read and are null: this
-- limit and the number of rows bound what arrives.
--
-- $1 bigint   position
-- $2 text[]   types; null = all
-- $3 bigint   maximum number of events examined, of all types
-- $4 bigint   maximum number of events returned
-- $5 text     tenant
-- $6 integer  maximum bytes of data or metadata
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
