-- Reads the data of individual events, in the given order: as many as fit into the total size, and
-- at least the first. An event above its own limit is returned without data, and is the last.
--
-- Sizes are found one by one, so nothing is fetched beyond what fits. The size of uncompressed data
-- is known without reading it. Compressed data must be decompressed, unless even its compressed
-- form is too large.
--
-- $1 bigint[]  positions
-- $2 bigint    maximum bytes in total
-- $3 bigint    maximum bytes of an event; null = the limit of the store
with recursive allowed (most) as materialized (
  -- The size of a stored value includes a few bytes of its own.
  select 8 + coalesce($3::bigint, (select max_event_bytes from sandmill.store))
), measured (number, position, bytes, total) as (
  select 0, 0::bigint, 0::bigint, 0::bigint
  union all
  select measured.number + 1, event.position, event.bytes, measured.total + event.bytes
  from measured
  cross join lateral (
    select e.position,
      case
        when pg_column_compression(e.data) is null or pg_column_size(e.data) > (select most from allowed) then pg_column_size(e.data)
        else octet_length(e.data::text)
      end::bigint
      + case
        when pg_column_compression(e.metadata) is null or pg_column_size(e.metadata) > (select most from allowed) then pg_column_size(e.metadata)
        else octet_length(e.metadata::text)
      end as bytes
    from sandmill.events e
    where e.position = ($1::bigint[])[measured.number + 1]
  ) event
  where measured.number = 0 or measured.total < $2 and measured.bytes <= (select most from allowed)
)
select measured.position, measured.bytes,
  case when measured.bytes <= (select most from allowed) then e.data end,
  case when measured.bytes <= (select most from allowed) then e.metadata end,
  (select most from allowed) - 8
from measured
join sandmill.events e on e.position = measured.position
where measured.number = 1 or measured.number > 1 and measured.total <= $2
