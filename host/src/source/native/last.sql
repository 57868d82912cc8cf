-- Reads the last events up to a position that have certain types, backwards along the primary key.
-- Data and metadata above the limit are not read and are null: this limit and the number of rows
-- bound what arrives.
--
-- $1 bigint   position
-- $2 text[]   types; null = all
-- $3 bigint   maximum number of events examined, of all types
-- $4 bigint   maximum number of events returned
-- $5 integer  maximum bytes of data or metadata
select position, id, tenant, type, stream, version, recorded_at,
  case when pg_column_size(data) <= $5 and (pg_column_compression(data) is null or octet_length(data::text) <= $5) then data end,
  case when pg_column_size(metadata) <= 32 or pg_column_size(metadata) <= $5 and octet_length(metadata::text) <= $5 then metadata end
from (
  select * from sandmill.events
  where position <= $1
  order by position desc
  limit $3
) e
where $2::text[] is null or type = any ($2)
limit $4
