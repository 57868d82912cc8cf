-- Counts the lanes behind the cursors of their processors' serving generations by state. Also
-- returns for each group the number of lanes whose next event is known, and the lowest position of
-- these events. Lanes that a tenant's own processor replaces are left out. No binds.
select x.processor, x.state, count(*), count(x.event_position), min(x.event_position)
from sandmill.lane_checkpoints x
join sandmill.generations g on g.processor = x.processor and g.generation = x.generation and g.state = 'serving'
where not (x.state = 'paused' and x.class = 'replaced')
group by x.processor, x.state
