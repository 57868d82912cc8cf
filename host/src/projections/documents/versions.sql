-- Reads what must be known of documents that are about to be written without having been read.
-- {table} of one collection · $1 tenants text[] · $2 ids text[], in pairs
select d._partition, d._id, d._version, d.metadata->>'lane'
from unnest($1::text[], $2::text[]) as wanted (tenant, id)
join {table} d on d._partition = wanted.tenant and d._id = wanted.id
