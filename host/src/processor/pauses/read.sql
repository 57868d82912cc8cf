-- Reads what of a processor was told to wait, and by whom.
-- $1 processor text
select tenant, lane_key, 'by ' || paused_by || ' since ' || to_char(since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from sandmill.pauses
where processor = $1
