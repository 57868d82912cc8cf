-- Appends events to a stream. Returns one row per event, in order. JSON is passed as text, so that
-- the store keeps it as written.
--
-- $1 text           tenant
-- $2 text           stream
-- $3 text[]         types
-- $4 text[]         data
-- $5 bigint         expected version; null = any
-- $6 text[]         metadata; null = none for all events
-- $7 text[]         ids; null = random for all events
-- $8 timestamptz[]  times; null = now for all events
select event_id, stream_version, log_position
from sandmill.append($1::text, $2::text, $3::text[], $4::text[]::json[], $5::bigint, $6::text[]::json[], $7::text[], $8::timestamptz[])
