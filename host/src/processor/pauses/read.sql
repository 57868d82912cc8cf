-- Reads the pauses of a processor, each with the role that asked for it and the time.
--
-- $1 text  processor
select tenant, lane_key, 'by ' || paused_by || ' since ' || to_char(since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from sandmill.pauses
where processor = $1
