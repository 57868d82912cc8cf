-- Reads documents of any tenants, without the host's own keys, each with the lane that first wrote
-- it if lanes are finer than tenants. A document that PostgreSQL prints with more bytes than
-- allowed is null. Its length is returned in any case, or that of its numbers alone.
--
-- A number of a few bytes can print as very many digits, so that printing one document takes
-- seconds and gigabytes. Therefore the digits of a large document's numbers are counted first. The
-- result of `numeric_send` contains the number of groups of four digits before the point, and the
-- number of digits after it. "offset 0" keeps PostgreSQL from computing a value twice.
--
-- {table}    table of the collection
-- Arrays of one length:
-- $1 text[]  tenants
-- $2 text[]  ids
-- Single value:
-- $3 bigint  maximum bytes of a document
select tenant, id, version, case when octet_length(text) <= $3::bigint then text end, owner,
  coalesce(octet_length(text), digits)
from (
  select tenant, id, version, owner, digits, case when digits <= $3::bigint then data::text end as text
  from (
    select d._partition as tenant, d._id as id, d._version as version, d.metadata->>'lane' as owner,
      d.data - array['_id', '_version'] as data
    from unnest($1::text[], $2::text[]) as wanted (tenant, id)
    join {table} d on d._partition = wanted.tenant and d._id = wanted.id
    offset 0
  ) document
  cross join lateral (
    select case when pg_column_size(data) <= 16384 then 0 else (
      select coalesce(sum(
        case when get_byte(sent, 2) < 128 then 4 * (256 * get_byte(sent, 2) + get_byte(sent, 3)) else 0 end
        + 256 * get_byte(sent, 6) + get_byte(sent, 7)
      ), 0)
      from jsonb_array_elements(jsonb_path_query_array(data, 'strict $.** ? (@.type() == "number")')) as number
      cross join lateral numeric_send(number::numeric) as sent
    ) end::bigint as digits
    offset 0
  ) counted
  offset 0
) printed
