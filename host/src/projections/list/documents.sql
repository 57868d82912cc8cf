-- Lists documents by tenant and id, without the keys that belong to the host. One that PostgreSQL prints with more than $6 bytes comes as
-- null, with its length. The inner "offset 0" keeps the database from making the texts before it sorts, so that one that cannot be made
-- fails behind those that come before it; the outer one keeps each from being made twice.
-- {view} of one collection · $1 tenant text or null · $2 id text or null · $3 limit bigint or null · behind a tenant $4 text and an id
-- $5 text, or null · $6 bytes bigint
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
