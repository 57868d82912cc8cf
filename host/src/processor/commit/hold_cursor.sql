-- Checks that the cursor of every bucket stands where it should and the fence is ours, and keeps it so until the transaction ends; fails it
-- otherwise. What lanes behind it have handled is counted in the first bucket's row.
-- $1 processor text · $2 fence text · $3 progress text · $4 buckets bigint · $5 events handled bigint
with held as (
  select 1 from sandmill.cursors where processor = $1 and fence = $2 and progress::text = $3::text and bucket <> 0 for share
),
counted as (
  update sandmill.cursors set handled = handled + $5
  where processor = $1 and fence = $2 and progress::text = $3::text and bucket = 0
  returning 1
)
select sandmill.must_change('hold cursor of ' || $1, $4, (select count(*) from held) + (select count(*) from counted))
