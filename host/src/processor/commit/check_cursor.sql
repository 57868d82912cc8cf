-- Checks the progress and the fence of the cursor of every bucket, and locks the rows until the
-- transaction ends. Adds the events that lanes behind the cursor have handled to the row of bucket
-- 0. Fails the transaction if another term has taken the fence or the cursor has moved.
--
-- $1 text    processor
-- $2 text    fencing token
-- $3 text    expected progress
-- $4 bigint  number of buckets
-- $5 bigint  number of events handled
with held as (
  select 1 from sandmill.cursors where processor = $1 and fence = $2 and progress::text = $3::text and bucket <> 0 for share
),
counted as (
  update sandmill.cursors set handled = handled + $5
  where processor = $1 and fence = $2 and progress::text = $3::text and bucket = 0
  returning 1
)
select sandmill.must_change('check cursor of ' || $1, $4, (select count(*) from held) + (select count(*) from counted))
