-- Writes every cursor's progress anew, and a token into it that no host has.
-- Arrays of one length: $1 progress before text[] · $2 progress after text[]
update sandmill.cursors c
set progress = coalesce((select after from unnest($1::text[], $2::text[]) as moved (before, after) where before = c.progress::text), c.progress),
    fence = gen_random_uuid()::text
