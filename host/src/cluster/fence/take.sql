-- Begins a term: writes a new fencing token into the cursor of every bucket, and returns the
-- progress of each.
--
-- $1 text  processor
-- $2 text  fencing token
update sandmill.cursors set fence = $2 where processor = $1 returning bucket, progress::text
