-- Counts the lanes behind their processors' cursors by state. Also returns for each group the
-- number of lanes whose next event is known, and the lowest position of these events. Lanes that a
-- tenant's own processor replaces are left out. No binds.
select processor, state, count(*), count(event_position), min(event_position)
from sandmill.lane_checkpoints
where not (state = 'paused' and class = 'replaced')
group by processor, state
