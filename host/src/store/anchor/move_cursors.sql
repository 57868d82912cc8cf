-- Replaces the progress of every cursor, and writes a fencing token that no host has.
--
-- Arrays of one length:
-- $1 text[]  progress before
-- $2 text[]  progress after
update sandmill.cursors c
set progress = coalesce((select after from unnest($1::text[], $2::text[]) as moved (before, after) where before = c.progress::text), c.progress),
    fence = gen_random_uuid()::text
