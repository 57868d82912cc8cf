-- Reads the pending requests about dead letters and parked streams of a generation, whether or not a
-- host has noticed them.
--
-- $1 text     processor
-- $2 integer  generation
select tenant, lane_key, position, null::text, request
from sandmill.dead_letters
where processor = $1 and generation = $2 and request <> ''
union all
select tenant, lane_key, null, stream, request
from sandmill.parked_streams
where processor = $1 and generation = $2 and request <> ''
