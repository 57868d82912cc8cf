-- Events behind a position that pass a filter, by position. One whose data or metadata is too large comes without both, with its size as
-- it is stored.
-- $1 position bigint   $2 tenant text, null = any   $3 stream text, null = any   $4 type text, null = any   $5 at most so many bigint
-- $6 bytes of data or metadata at most bigint
select position, tenant, stream, version, type, id, recorded_at,
  case when fits then data end,
  case when fits then metadata end,
  case when not fits then pg_column_size(data)::bigint + pg_column_size(metadata) end
from (
  select *,
    pg_column_size(data) <= $6::bigint and pg_column_size(metadata) <= $6::bigint
    -- Compressed data is unfolded only where it may be too large: no method packs more than 256 bytes into one.
    and (pg_column_size(data) * 256::bigint <= $6::bigint or octet_length(data::text) <= $6::bigint)
    and (pg_column_size(metadata) * 256::bigint <= $6::bigint or octet_length(metadata::text) <= $6::bigint) as fits
  from sandmill.events
  where position > $1::bigint
    and ($2::text is null or tenant = $2::text)
    and ($3::text is null or stream = $3::text)
    and ($4::text is null or type = $4::text)
  order by position
  limit $5::bigint
) e
