-- Reads the processors that hosts run, each with the tenant that owns it (null = shared) and the
-- event types that it handles (null = all). No binds.
select p.id, p.family, nullif(p.tenant, ''), p.event_types
from sandmill.processors p
where p.id in (select r.id from sandmill.running_processors r)
order by p.id
