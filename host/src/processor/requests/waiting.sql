-- Locks a parked stream of a processor's serving generation, and reads the versions between which
-- its waiting events lie, and the event types that the processor handles; null = all.
--
-- $1 text  processor
-- $2 text  tenant
-- $3 text  stream
select p.next_version, p.last_version, r.event_types
from sandmill.generations g
join sandmill.processors r on r.id = g.processor
join sandmill.parked_streams p on p.processor = g.processor and p.generation = g.generation
where g.processor = $1 and g.state = 'serving' and p.tenant = $2 and p.stream = $3
for update of p
