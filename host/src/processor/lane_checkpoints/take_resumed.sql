-- Takes lanes of a share that were resumed: each is returned once. Writes nothing if there are
-- none.
--
-- $1 text      processor
-- $2 integer   generation
-- $3 smallint  first bucket of the share
-- $4 smallint  last bucket of the share
-- $5 bigint    maximum number of lanes
with these as (
  select processor, generation, tenant, lane_key from sandmill.lane_checkpoints
  where processor = $1 and generation = $2 and bucket between $3 and $4 and resumed
  limit $5
  for update skip locked
)
update sandmill.lane_checkpoints e set resumed = false
from these
where e.processor = these.processor and e.generation = these.generation and e.tenant = these.tenant and e.lane_key = these.lane_key
returning e.tenant, e.lane_key, e.skip_position, e.class, e.reason
