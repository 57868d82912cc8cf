-- Reads the versions and lanes of documents that are to be written without having been read.
--
-- {table}    table of the collection
-- Arrays of one length:
-- $1 text[]  tenants
-- $2 text[]  ids
select d._partition, d._id, d._version, d.metadata->>'lane'
from unnest($1::text[], $2::text[]) as wanted (tenant, id)
join {table} d on d._partition = wanted.tenant and d._id = wanted.id
