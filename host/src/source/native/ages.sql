-- Reads the ages of events in seconds. A position without an event has no row.
--
-- $1 bigint[]  positions
select position, greatest(extract(epoch from now() - recorded_at), 0)::double precision
from sandmill.events
where position = any ($1)
