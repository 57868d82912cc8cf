-- Checks that the cursor of every bucket stands where it should and the fence is ours, and keeps it so until the transaction ends; fails it
-- otherwise.
-- $1 processor text · $2 fence text · $3 progress text · $4 buckets bigint
with held as (
  select 1 from sandmill.cursors where processor = $1 and fence = $2 and progress::text = $3::text for share
)
select sandmill.must_change('hold cursor of ' || $1, $4, (select count(*) from held))
