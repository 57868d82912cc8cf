-- Reads the first lanes of a processor that wait for a person, with how many there are. Lanes that a
-- tenant's own processor replaces wait for nobody.
-- $1 processor text · $2 at most so many bigint
select tenant, lane_key, class, reason, count(*) over ()
from sandmill.lane_checkpoints
where processor = $1 and (state = 'blocked' or state = 'paused' and class <> 'replaced')
order by tenant, lane_key
limit $2
