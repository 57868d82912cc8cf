-- Reads the lanes that a processor left behind.
-- $1 processor text
select tenant, lane_key, progress::text, state, attempts, next_at, class, reason, event_position
from sandmill.exceptions
where processor = $1
