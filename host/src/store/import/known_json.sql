-- Reads data and metadata of the event with an id, unless they are larger than what they are
-- compared with.
--
-- $1 text    tenant
-- $2 text    id
-- $3 bigint  maximum bytes of both
select e.data::text, e.metadata::text
from sandmill.events e
where e.tenant = $1 and e.id = $2 and octet_length(e.data::text)::bigint + octet_length(e.metadata::text) <= $3
