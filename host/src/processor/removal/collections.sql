-- Lists the collections that a processor writes, or that were kept of it. The table is null if it
-- is missing.
-- $1 processor text
select to_regclass(format('sandmill_documents.%I', 'c' || number || '_' || generation))::text, view
from sandmill.collections where processor = $1 or kept_from = $1 order by name
