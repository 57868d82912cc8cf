-- Counts the lanes behind their processors' cursors by state, without those that a tenant's own
-- processor replaces, and says of how many of them the event is known that waits there, and how old the first of those is, in seconds.
select c.processor, c.state, c.lanes, c.known, coalesce(greatest(extract(epoch from now() - e.recorded_at), 0), 0)::double precision
from (
  select processor, state, count(*) as lanes, count(event_position) as known, min(event_position) as first
  from sandmill.lane_checkpoints where not (state = 'paused' and class = 'replaced') group by processor, state
) c
left join sandmill.events e on e.position = c.first
