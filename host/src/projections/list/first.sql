-- Finds the first document by tenant and id, without reading its data.
--
-- {view}   view of the collection
-- $1 text  tenant; null = all
-- $2 text  id; null = all
-- $3 text  tenant of the document before, or null
-- $4 text  id of the document before, or null
select _partition, _id, _version
from {view}
where ($1::text is null or _partition = $1) and ($2::text is null or _id = $2)
  and ($3::text is null or (_partition, _id) > ($3, $4::text))
order by _partition, _id
limit 1
