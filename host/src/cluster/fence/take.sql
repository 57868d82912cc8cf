-- Begins a term: writes a new fencing token into the cursor of a share, and returns its progress.
-- Returns no row if the share no longer exists or owns other buckets.
--
-- $1 text      processor
-- $2 integer   generation
-- $3 smallint  share
-- $4 smallint  first bucket
-- $5 smallint  last bucket
-- $6 text      fencing token
update sandmill.cursors set fence = $6
where processor = $1 and generation = $2 and share = $3 and first_bucket = $4 and last_bucket = $5
returning progress::text
