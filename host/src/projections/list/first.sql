-- Names the first document by tenant and id, without reading it.
-- {view} of one collection · $1 tenant text or null · $2 id text or null · behind a tenant $3 text and an id $4 text, or null
select _partition, _id, _version
from {view}
where ($1::text is null or _partition = $1) and ($2::text is null or _id = $2)
  and ($3::text is null or (_partition, _id) > ($3, $4::text))
order by _partition, _id
limit 1
