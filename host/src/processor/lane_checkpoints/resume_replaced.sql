-- Resumes the blocked lanes of one tenant in a processor's serving generation, and marks them for
-- their host. The tenant's own processor replaces this one, so they need no attention, and wait
-- until that processor ends.
--
-- $1 text  processor
-- $2 text  tenant
update sandmill.lane_checkpoints set state = 'catching-up', since = now(), resumed = true
where processor = $1
  and generation = (select g.generation from sandmill.generations g where g.processor = $1 and g.state = 'serving')
  and tenant = $2 and state = 'blocked'
