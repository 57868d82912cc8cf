-- Writes the progress of every lane behind its cursor anew.
-- Arrays of one length: $1 progress before text[] · $2 progress after text[]
update sandmill.lane_checkpoints e
set progress = moved.after
from unnest($1::text[], $2::text[]) as moved (before, after)
where e.progress::text = moved.before
