-- Lists all processors, each with two flags: whether a live host owns it, and whether its last term
-- ended with an error within the last 15 s. Such a processor's next term begins within about 10 s:
-- a pause of at most 5 s, after an error that takes at most 5 s to record. No binds.
select p.id, p.kind, p.tenant, p.plugin, exists (select from sandmill.running_processors r where r.id = p.id),
       coalesce(p.term_error_at > now() - interval '15 seconds', false)
from sandmill.processors p
order by p.id
