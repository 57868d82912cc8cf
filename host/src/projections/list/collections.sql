-- Lists all collections with their owners, shared ones first. The number of documents is the
-- database's last estimate, or null if there is none yet. No binds.
select c.tenant, c.name, c.view, coalesce(c.processor, ''), c.kept_from,
       (select nullif(t.reltuples, -1)::bigint from pg_class t
        where t.oid = to_regclass(format('sandmill_documents.%I', format('c%s_%s', c.number, c.generation)))),
       format('%I.%I', s.views_schema, c.view)
from sandmill.collections c cross join sandmill.store s
order by c.tenant, c.name
