-- Reads the events of a stream with some versions. Data and metadata above the limit are not read and
-- are null: this limit and the number of rows bound what arrives.
--
-- $1 text     tenant
-- $2 text     stream
-- $3 bigint   first version
-- $4 bigint   last version
-- $5 bigint   maximum number of events
-- $6 integer  maximum bytes of data or metadata
select position, id, tenant, type, stream, version, recorded_at,
  case when pg_column_size(data) <= $6 and (pg_column_compression(data) is null or octet_length(data::text) <= $6) then data end,
  case when pg_column_size(metadata) <= 32 or pg_column_size(metadata) <= $6 and octet_length(metadata::text) <= $6 then metadata end
from sandmill.events
where tenant = $1 and stream = $2 and version between $3 and $4
order by tenant, stream, version
limit $5
