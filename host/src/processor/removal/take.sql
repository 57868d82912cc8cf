-- Deletes the rows of collections that were kept from a removed processor. Returns for each what
-- must be dropped: its views, and its tables of all generations.
--
-- $1 text    processor
-- $2 bigint  maximum number of collections
with taken as (
  delete from sandmill.collections
  where number in (select number from sandmill.collections where kept_from = $1 order by number limit $2)
  returning number, view
)
select array[format('%I.%I', s.views_schema, t.view), format('sandmill_tenant.%I', t.view)], array(
  select format('sandmill_documents.%I', c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = 'sandmill_documents' and c.relkind = 'r' and c.relname ~ ('^c' || t.number || '_[0-9]+$')
)
from taken t cross join sandmill.store s
order by t.number
