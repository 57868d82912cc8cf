-- Reads documents of any tenants, without the keys that belong to the host, and with the lane that wrote each first where lanes are
-- finer than tenants. One that PostgreSQL prints with more than $3 bytes comes as null; its length, or that of its numbers alone, is
-- said in any case.
-- A number of a few bytes may be printed with very many digits, and the text of one document then takes seconds and gigabytes. So the
-- digits of a large document's numbers are counted first: `numeric_send` says how many groups of four stand before the point, and how
-- many digits behind it. "offset 0" keeps what was computed from being computed twice.
-- {table} of one collection · $1 tenants text[] · $2 ids text[], in pairs · $3 bytes bigint
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
