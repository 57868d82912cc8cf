-- Reads the parked streams of a generation.
--
-- $1 text     processor
-- $2 integer  generation
select tenant, lane_key, stream, next_version, last_version, events
from sandmill.parked_streams
where processor = $1 and generation = $2
