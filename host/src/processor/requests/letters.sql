-- Requests an action for dead letters of a processor's serving generation. A request that a host
-- has noticed already stays as it is. Returns the letters' positions and tenants.
--
-- $1 text         processor
-- $2 bigint       position; null = all
-- $3 text         tenant; null = all
-- $4 text         class; null = all
-- $5 timestamptz  earliest time at which they were last set aside; null = any
-- $6 text         action: retry or discard
update sandmill.dead_letters d set request = $6, request_new = true
from sandmill.generations g
where g.processor = $1 and g.state = 'serving' and d.processor = g.processor and d.generation = g.generation
  and ($2::bigint is null or d.position = $2) and ($3::text is null or d.tenant = $3)
  and ($4::text is null or d.class = $4) and ($5::timestamptz is null or d.last_at >= $5)
  and (d.request = '' or d.request_new)
returning d.position, d.tenant
