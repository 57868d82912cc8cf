-- Lists the collections that a processor writes, or that were kept of it. The table is null if it
-- is missing. The view's name comes without and with its schema.
-- $1 processor text
select to_regclass(format('sandmill_documents.%I', 'c' || number || '_' || generation))::text, view, format('%I.%I', views_schema, view)
from sandmill.collections cross join sandmill.store where processor = $1 or kept_from = $1 order by name
