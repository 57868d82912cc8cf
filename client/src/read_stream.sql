-- Reads the events of a stream, in order.
--
-- $1 text    tenant
-- $2 text    stream
-- $3 bigint  first version
-- $4 bigint  maximum number of events
select position, version, type, id, recorded_at, data::text, metadata::text
from sandmill.events
where tenant = $1::text and stream = $2::text and version >= $3::bigint
order by version
limit $4::bigint
