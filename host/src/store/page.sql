-- Reads a page of the log, by position, with optional filters. An event whose data or metadata
-- exceeds the limit is returned without both, with its stored size.
--
-- $1 bigint  position above which the page begins
-- $2 text    tenant; null = all
-- $3 text    stream; null = all
-- $4 text    type; null = all
-- $5 bigint  maximum number of events
-- $6 bigint  maximum bytes of data or metadata
select position, tenant, stream, version, type, id, recorded_at,
  case when fits then data end,
  case when fits then metadata end,
  case when not fits then pg_column_size(data)::bigint + pg_column_size(metadata) end
from (
  select *,
    pg_column_size(data) <= $6::bigint and pg_column_size(metadata) <= $6::bigint
    -- Decompresses data only if it may be too large: no method compresses more than 256 bytes into
    -- one.
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
