-- Lets blocked lanes of a processor's serving generation continue after the event before which each
-- stopped, and marks them for their host. Returns the lanes, the positions of the events, and why
-- the lanes stopped.
--
-- $1 text  processor
-- $2 text  tenant
-- $3 text  lane key; null = all of the tenant
update sandmill.lane_checkpoints e
set state = 'catching-up', next_at = null, since = now(), resumed = true, skip_position = e.event_position
from sandmill.generations g
where g.processor = $1 and g.state = 'serving' and e.processor = g.processor and e.generation = g.generation
  and e.tenant = $2 and ($3::text is null or e.lane_key = $3) and e.state = 'blocked' and e.event_position is not null
returning e.tenant, e.lane_key, e.event_position, e.class, e.reason
