-- Lets blocked lanes of a processor go on now, and their host know of it.
-- $1 processor text · $2 at most so many bigint
with some as (
  select processor, tenant, lane_key from sandmill.exceptions where processor = $1 and state = 'blocked' limit $2 for update skip locked
)
update sandmill.exceptions e set state = 'catching-up', since = now(), resumed = true
from some
where e.processor = some.processor and e.tenant = some.tenant and e.lane_key = some.lane_key
returning e.tenant, e.lane_key
