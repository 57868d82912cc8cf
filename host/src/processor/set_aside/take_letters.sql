-- Takes new requests about dead letters: each is returned once. Writes nothing if there are none.
--
-- $1 text     processor
-- $2 integer  generation
-- $3 bigint   maximum number of letters
with these as (
  select position from sandmill.dead_letters
  where processor = $1 and generation = $2 and request_new
  limit $3
  for update skip locked
)
update sandmill.dead_letters d set request_new = false
from these
where d.processor = $1 and d.generation = $2 and d.position = these.position
returning d.tenant, d.lane_key, d.position, null::text, d.request
