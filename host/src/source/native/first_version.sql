-- Finds the first version of a stream within bounds whose event has one of some types.
--
-- $1 text    tenant
-- $2 text    stream
-- $3 bigint  first version
-- $4 bigint  last version
-- $5 text[]  event types; null = all
select min(version)
from sandmill.events
where tenant = $1 and stream = $2 and version between $3 and $4 and ($5::text[] is null or type = any ($5))
