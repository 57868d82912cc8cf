-- Reads the first lanes of a processor's serving generation that need attention, with the number of
-- all of them. Lanes that a tenant's own processor replaces are left out.
--
-- $1 text    processor
-- $2 bigint  maximum number of lanes
select tenant, lane_key, class, reason, count(*) over ()
from sandmill.lane_checkpoints
where processor = $1
  and generation = (select g.generation from sandmill.generations g where g.processor = $1 and g.state = 'serving')
  and (state = 'blocked' or state = 'paused' and class <> 'replaced')
order by tenant, lane_key
limit $2
