-- Records why a processor reads nothing, for `sandmill status` and `sandmill explain`.
--
-- $1 text  processor
-- $2 text  reason; empty = it reads
update sandmill.processors set held = $2, held_since = now() where id = $1
