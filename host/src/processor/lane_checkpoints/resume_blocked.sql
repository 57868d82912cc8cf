-- Resumes blocked lanes of a processor's serving generation, and marks them for their host. Returns
-- their tenants and lane keys.
--
-- $1 text    processor
-- $2 bigint  maximum number of lanes
with these as (
  select processor, generation, tenant, lane_key from sandmill.lane_checkpoints
  where processor = $1 and state = 'blocked'
    and generation = (select g.generation from sandmill.generations g where g.processor = $1 and g.state = 'serving')
  limit $2
  for update skip locked
)
update sandmill.lane_checkpoints e set state = 'catching-up', since = now(), resumed = true
from these
where e.processor = these.processor and e.generation = these.generation and e.tenant = these.tenant and e.lane_key = these.lane_key
returning e.tenant, e.lane_key
