-- Reads the lanes behind their cursors in the serving generations, grouped by processor, state and
-- kind of reason: the number of lanes in each group, and the lane that has waited longest. Returns
-- at most 200 groups, the largest first. Lanes that a tenant's own processor replaces are left out.
--
-- $1 text  tenant; null = all
with alike as (
  select distinct on (c.processor, c.state, c.class) c.processor, c.generation, c.tenant, c.lane_key, c.since,
         count(*) over (partition by c.processor, c.state, c.class) as lanes
  from sandmill.lane_checkpoints c
  join sandmill.generations g on g.processor = c.processor and g.generation = c.generation and g.state = 'serving'
  where ($1::text is null or c.tenant = $1) and not (c.state = 'paused' and c.class = 'replaced')
  order by c.processor, c.state, c.class, c.since, c.tenant, c.lane_key
),
most as (select * from alike order by lanes desc, since limit 200)
select processor, m.lanes, tenant, lane_key, x.state, x.class, x.reason, x.attempts, x.event_position,
       to_char(x.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from most m
join sandmill.lane_checkpoints x using (processor, generation, tenant, lane_key)
order by processor, x.state, x.class
