-- The events of one stream in order.
-- $1 tenant text   $2 stream text   $3 first version bigint   $4 at most so many bigint
select position, version, type, id, recorded_at, data::text, metadata::text
from sandmill.events
where tenant = $1::text and stream = $2::text and version >= $3::bigint
order by version
limit $4::bigint
