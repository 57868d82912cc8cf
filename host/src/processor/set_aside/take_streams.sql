-- Takes new requests about parked streams: each is returned once. Writes nothing if there are none.
--
-- $1 text     processor
-- $2 integer  generation
-- $3 bigint   maximum number of streams
with these as (
  select tenant, stream from sandmill.parked_streams
  where processor = $1 and generation = $2 and request_new
  limit $3
  for update skip locked
)
update sandmill.parked_streams p set request_new = false
from these
where p.processor = $1 and p.generation = $2 and p.tenant = these.tenant and p.stream = these.stream
returning p.tenant, p.lane_key, null::bigint, p.stream, p.request
