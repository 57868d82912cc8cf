-- Deletes documents, each only if it still has the version that was read. The number of rows
-- changed shows whether all of them had.
--
-- {table}      table of the collection
-- Arrays of one length:
-- $1 text[]    tenants
-- $2 text[]    ids
-- $3 bigint[]  versions that were read
delete from {table} d
using unnest($1::text[], $2::text[], $3::bigint[]) as given (tenant, id, version)
where d._partition = given.tenant and d._id = given.id and d._version = given.version
