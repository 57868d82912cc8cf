-- Events behind a position that pass a filter, by position.
-- $1 position bigint   $2 tenant text, null = any   $3 stream text, null = any   $4 type text, null = any   $5 at most so many bigint
select position, tenant, stream, version, type, id, recorded_at, data, metadata
from sandmill.events
where position > $1::bigint
  and ($2::text is null or tenant = $2::text)
  and ($3::text is null or stream = $3::text)
  and ($4::text is null or type = $4::text)
order by position
limit $5::bigint
