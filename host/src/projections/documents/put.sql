-- Creates or replaces documents, each only if it still has the version it was read with (0: it is not there yet). Whether all had is told
-- by the number of rows. A new document keeps in its metadata which lane wrote it, where lanes are finer than tenants.
-- {table} of one collection · arrays of one length: $1 tenants text[] · $2 ids text[] · $3 data text[] · $4 versions bigint[] · $5 lanes text[],
-- empty where the tenant is the lane
insert into {table} as d (_partition, _id, data, _version, metadata)
select tenant, id, data::jsonb, version + 1, case when lane is null then '{}' else jsonb_build_object('lane', lane) end
from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) as given (tenant, id, data, version, lane)
on conflict (_partition, _id) do update
  set data = excluded.data, _version = excluded._version, _updated = now()
  where d._version = excluded._version - 1
