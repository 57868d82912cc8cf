-- Lists documents by tenant and id, without the keys that belong to the host.
-- {view} of one collection · $1 tenant text or null · $2 id text or null · $3 limit bigint or null
select _partition, _id, _version, (data - array['_id', '_version'])::text
from {view}
where ($1::text is null or _partition = $1) and ($2::text is null or _id = $2)
order by _partition, _id
limit $3
