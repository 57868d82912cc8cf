-- Requests an action for a parked stream of a processor's serving generation. A request that a host
-- has noticed already stays as it is.
--
-- $1 text  processor
-- $2 text  tenant
-- $3 text  stream
-- $4 text  action: drain, discard or discard-all
update sandmill.parked_streams p set request = $4, request_new = true
from sandmill.generations g
where g.processor = $1 and g.state = 'serving' and p.processor = g.processor and p.generation = g.generation
  and p.tenant = $2 and p.stream = $3 and (p.request = '' or p.request_new)
