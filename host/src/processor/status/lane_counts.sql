-- Counts the lanes behind their processors' cursors by state. Of each group also: the number of
-- lanes whose next event is known, and the age of the first of these events in seconds. Lanes that
-- a tenant's own processor replaces are left out. No binds.
select c.processor, c.state, c.lanes, c.known, coalesce(greatest(extract(epoch from now() - e.recorded_at), 0), 0)::double precision
from (
  select processor, state, count(*) as lanes, count(event_position) as known, min(event_position) as first
  from sandmill.exceptions where not (state = 'paused' and class = 'replaced') group by processor, state
) c
left join sandmill.events e on e.position = c.first
