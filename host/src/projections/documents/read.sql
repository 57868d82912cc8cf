-- Reads documents of one tenant, without the keys that belong to the host.
-- {table} of one collection · $1 tenant text · $2 ids text[]
select _id, _version, (data - array['_id', '_version'])::text
from {table}
where _partition = $1 and _id = any ($2)
