-- Deletes documents, each only if it still has the version it was read with. Whether all had is told by the number of rows.
-- {table} of one collection · $1 tenants text[] · $2 ids text[] · $3 versions bigint[], all of one length
delete from {table} d
using unnest($1::text[], $2::text[], $3::bigint[]) as given (tenant, id, version)
where d._partition = given.tenant and d._id = given.id and d._version = given.version
