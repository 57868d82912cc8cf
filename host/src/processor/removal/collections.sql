-- Lists the collections that a processor writes, or that were kept after its removal. Returns for
-- each its table (null = missing), and the name of its view without and with the schema.
--
-- $1 text  processor
select to_regclass(format('sandmill_documents.%I', 'c' || number || '_' || generation))::text, view, format('%I.%I', views_schema, view)
from sandmill.collections cross join sandmill.store where processor = $1 or kept_from = $1 order by name
