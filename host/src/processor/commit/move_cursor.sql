-- Moves the cursor of every bucket from one progress to the next, if it stands there and the fence is ours; fails the transaction otherwise. What is handled is counted
-- in the first bucket's row.
-- $1 processor text · $2 fence text · $3 progress before text · $4 progress after text · $5 buckets bigint · $6 events handled bigint
with moved as (
  update sandmill.cursors set progress = $4::text, handled = case when bucket = 0 then handled + $6 else handled end
  where processor = $1 and fence = $2 and progress::text = $3::text
  returning 1
)
select sandmill.must_change('move cursor of ' || $1, $5, (select count(*) from moved))
