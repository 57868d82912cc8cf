-- Reads, for each processor, the first of its lanes that are behind the cursors of its serving
-- generation: blocked, retrying and paused ones, then all others, each by name. Lanes that are
-- paused because their tenant's own processor replaces this one are left out.
--
-- $1 bigint  maximum number of lanes per processor
select g.processor, l.tenant, l.lane_key, l.state, l.class, l.reason, l.attempts, l.event_position, to_char(l.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from sandmill.generations g
cross join lateral (
  -- Joined last, so that reasons are read only for the lanes that are shown.
  select x.*, first.place
  from (
    select f.tenant, f.lane_key, array_position(array['blocked', 'retrying', 'paused'], f.state) as place
    from sandmill.lane_checkpoints f
    where f.processor = g.processor and f.generation = g.generation and not (f.state = 'paused' and f.class = 'replaced')
    order by place, f.tenant, f.lane_key limit $1
  ) first
  join sandmill.lane_checkpoints x
    on x.processor = g.processor and x.generation = g.generation and x.tenant = first.tenant and x.lane_key = first.lane_key
) l
where g.state = 'serving'
order by g.processor, l.place, l.tenant, l.lane_key
