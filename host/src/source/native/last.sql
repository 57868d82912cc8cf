-- Reads the last events up to a position, backwards along the primary key: of some types, among so many of all types.
-- Data and metadata larger than $5 bytes stay where they are and are null here: what arrives is bounded by the two limits.
-- $1 position bigint · $2 types text[] or null for all · $3 events looked at bigint · $4 limit bigint · $5 bytes integer
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
