-- Takes lanes that were resumed: each is returned once. Writes nothing if there are none.
--
-- $1 text    processor
-- $2 bigint  maximum number of lanes
with these as (
  select processor, tenant, lane_key from sandmill.lane_checkpoints where processor = $1 and resumed limit $2 for update skip locked
)
update sandmill.lane_checkpoints e set resumed = false
from these
where e.processor = these.processor and e.tenant = these.tenant and e.lane_key = these.lane_key
returning e.tenant, e.lane_key
