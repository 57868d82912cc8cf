-- Sets the figures of a swap's entry: after the version's first event, and again when they are
-- final.
--
-- $1 bigint            number of the entry
-- $2 bigint            position of the first event
-- $3 double precision  milliseconds between the swap and the call that handled it
-- $4 bigint            lanes that got an answer from it soon after the swap, at most 1,000
-- $5 double precision  longest wait of such a lane, milliseconds
update sandmill.plugin_versions set first = $2, gap_ms = $3, lanes = $4, longest_ms = $5 where id = $1
