-- Begins a term: stamps a new token into every bucket's cursor row and returns where each stands.
-- $1 processor text · $2 token text
update sandmill.cursors set fence = $2 where processor = $1 returning bucket, progress::text
