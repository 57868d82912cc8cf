-- Resumes lanes of a processor's serving generation that wait for manual action or for their next
-- attempt, and marks them for their host. Their progress does not change.
--
-- $1 text  processor
-- $2 text  tenant; null = all
-- $3 text  lane key; null = all
update sandmill.lane_checkpoints
set state = 'catching-up', next_at = null, since = now(), resumed = true
where processor = $1
  and generation = (select g.generation from sandmill.generations g where g.processor = $1 and g.state = 'serving')
  and ($2::text is null or tenant = $2) and ($3::text is null or lane_key = $3) and state <> 'catching-up'
