-- Reads documents of any tenants, without the keys that belong to the host, and with the lane that wrote each first where lanes are
-- finer than tenants.
-- {table} of one collection · $1 tenants text[] · $2 ids text[], in pairs
select d._partition, d._id, d._version, (d.data - array['_id', '_version'])::text, d.metadata->>'lane'
from unnest($1::text[], $2::text[]) as wanted (tenant, id)
join {table} d on d._partition = wanted.tenant and d._id = wanted.id
