-- Lists all processors, and of each whether a host runs it.
select p.id, p.kind, p.tenant, p.plugin, exists (select from sandmill.running_processors r where r.id = p.id)
from sandmill.processors p
order by p.id
