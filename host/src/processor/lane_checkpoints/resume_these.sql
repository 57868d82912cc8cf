-- Resumes those of the given lanes of a processor's serving generation that are blocked, and marks
-- them for their host. Returns their tenants and lane keys.
--
-- $1 text    processor
-- Arrays of one length:
-- $2 text[]  tenants
-- $3 text[]  lane keys
update sandmill.lane_checkpoints e set state = 'catching-up', since = now(), resumed = true
from unnest($2::text[], $3::text[]) as given (tenant, lane_key)
where e.processor = $1
  and e.generation = (select g.generation from sandmill.generations g where g.processor = $1 and g.state = 'serving')
  and e.tenant = given.tenant and e.lane_key = given.lane_key and e.state = 'blocked'
returning e.tenant, e.lane_key
