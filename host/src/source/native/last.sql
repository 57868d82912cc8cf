-- Reads the last events up to a position, backwards along the primary key: of some types, among so many of all types.
-- $1 position bigint · $2 types text[] or null for all · $3 events looked at bigint · $4 limit bigint
select position, id, tenant, type, stream, version, recorded_at, data, metadata
from (
  select * from sandmill.events
  where position <= $1
  order by position desc
  limit $3
) e
where $2::text[] is null or type = any ($2)
limit $4
