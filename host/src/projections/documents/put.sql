-- Creates or replaces documents, each only if it still has the version that was read. The number of
-- rows changed shows whether all of them had. A new document records its lane in its metadata, if
-- lanes are finer than tenants.
--
-- {table}      table of the collection
-- Arrays of one length:
-- $1 text[]    tenants
-- $2 text[]    ids
-- $3 text[]    data
-- $4 bigint[]  versions that were read; 0 = no such document
-- $5 text[]    lanes, or null where the tenant is the lane
insert into {table} as d (_partition, _id, data, _version, metadata)
select tenant, id, data::jsonb, version + 1, case when lane is null then '{}' else jsonb_build_object('lane', lane) end
from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) as given (tenant, id, data, version, lane)
on conflict (_partition, _id) do update
  set data = excluded.data, _version = excluded._version, _updated = now()
  where d._version = excluded._version - 1
