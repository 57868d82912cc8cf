-- Reads the processors that hosts run, with whose they are and the event types that they handle; null for every type.
select p.id, p.family, nullif(p.tenant, ''), p.event_types
from sandmill.processors p
where p.id in (select r.id from sandmill.running_processors r)
order by p.id
