-- Appends events to one stream; one row for each, in order. JSON arrives as text, so that its text is kept as it was written.
-- $1 tenant text   $2 stream text   $3 types text[]   $4 data text[]   $5 expected version bigint, null = any
-- $6 metadata text[], null = none has any   $7 ids text[], null = all random   $8 times timestamptz[], null = now
select event_id, stream_version, log_position
from sandmill.append($1::text, $2::text, $3::text[], $4::text[]::json[], $5::bigint, $6::text[]::json[], $7::text[], $8::timestamptz[])
