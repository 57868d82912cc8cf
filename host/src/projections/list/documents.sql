-- Lists documents by tenant and id, without the host's own keys. A document that PostgreSQL prints
-- with more bytes than allowed is null, with its length.
--
-- The inner "offset 0" keeps PostgreSQL from printing the documents before it sorts them. So a
-- document that cannot be printed fails only after the documents before it were returned. The outer
-- one keeps PostgreSQL from printing a document twice.
--
-- {view}     view of the collection
-- $1 text    tenant; null = all
-- $2 text    id; null = all
-- $3 bigint  maximum number of documents; null = all
-- $4 text    tenant of the last document of the page before, or null
-- $5 text    id of the last document of the page before, or null
-- $6 bigint  maximum bytes of a document
select tenant, id, version, case when octet_length(text) <= $6::bigint then text end, octet_length(text)
from (
  select tenant, id, version, (data - array['_id', '_version'])::text as text
  from (
    select _partition as tenant, _id as id, _version as version, data
    from {view}
    where ($1::text is null or _partition = $1) and ($2::text is null or _id = $2)
      and ($4::text is null or (_partition, _id) > ($4, $5::text))
    order by _partition, _id
    offset 0
  ) ordered
  offset 0
) document
limit $3
