-- Reads every lane behind its cursor.
select processor, tenant, lane_key, state, class, reason, attempts, event_position, to_char(since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from sandmill.exceptions
order by processor, tenant, lane_key
