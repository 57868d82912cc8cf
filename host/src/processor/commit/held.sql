-- Records for people why a processor reads nothing.
--
-- $1 text  processor
-- $2 text  reason; empty = it reads
update sandmill.processors set held = $2, held_since = now() where id = $1
