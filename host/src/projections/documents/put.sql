-- Creates or replaces documents, each only if it still has the version it was read with (0: it is not there yet). One that has not
-- fails the transaction.
-- {table} of one collection · $1 tenants text[] · $2 ids text[] · $3 data text[] · $4 versions bigint[], all of one length
with written as (
  insert into {table} as d (_partition, _id, data, _version)
  select tenant, id, data::jsonb, version + 1
  from unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as given (tenant, id, data, version)
  on conflict (_partition, _id) do update
    set data = excluded.data, _version = excluded._version, _updated = now()
    where d._version = excluded._version - 1
  returning 1
)
select sandmill.must_change('write documents of {table}', cardinality($1), (select count(*) from written))
