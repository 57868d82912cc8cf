-- Lets those of some lanes that are blocked go on now, and their host know of it.
-- $1 processor text · arrays of one length: $2 tenants text[] · $3 keys text[]
update sandmill.lane_checkpoints e set state = 'catching-up', since = now(), resumed = true
from unnest($2::text[], $3::text[]) as given (tenant, lane_key)
where e.processor = $1 and e.tenant = given.tenant and e.lane_key = given.lane_key and e.state = 'blocked'
returning e.tenant, e.lane_key
