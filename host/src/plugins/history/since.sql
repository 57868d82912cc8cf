-- Adds to the note of a swap what is known since its first event was handled.
-- $1 id bigint · $2 its first event bigint · $3 gap double precision, milliseconds · $4 lanes that have come over bigint · $5 the longest wait of one double precision, milliseconds
update sandmill.plugin_versions set first = $2, gap_ms = $3, lanes = $4, longest_ms = $5 where id = $1
