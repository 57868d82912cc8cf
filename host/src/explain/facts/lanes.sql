-- Reads the lanes behind their cursors, grouped by processor, state and kind of reason: the number
-- of lanes in each group, and the lane that has waited longest. Returns at most 200 groups, the
-- largest first. Lanes that a tenant's own processor replaces are left out.
--
-- $1 text  tenant; null = all
with alike as (
  select distinct on (processor, state, class) processor, tenant, lane_key, since,
         count(*) over (partition by processor, state, class) as lanes
  from sandmill.lane_checkpoints
  where ($1::text is null or tenant = $1) and not (state = 'paused' and class = 'replaced')
  order by processor, state, class, since, tenant, lane_key
),
most as (select * from alike order by lanes desc, since limit 200)
select processor, m.lanes, tenant, lane_key, x.state, x.class, x.reason, x.attempts, x.event_position,
       to_char(x.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from most m
join sandmill.lane_checkpoints x using (processor, tenant, lane_key)
order by processor, x.state, x.class
