-- Replaces the progress of every lane checkpoint.
--
-- Arrays of one length:
-- $1 text[]  progress before
-- $2 text[]  progress after
update sandmill.lane_checkpoints e
set progress = moved.after
from unnest($1::text[], $2::text[]) as moved (before, after)
where e.progress::text = moved.before
