-- Says for people why a processor reads nothing, or with an empty text that it does.
-- $1 processor text · $2 reason text
update sandmill.processors set held = $2, held_since = now() where id = $1
