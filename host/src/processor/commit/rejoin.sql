-- Lets a lane join the tail again: its exception goes, if it stands where it was read, and the cursor stands exactly where the lane
-- now is, and the fence is ours; fails the transaction otherwise.
-- $1 processor text · $2 fence text · $3 bucket smallint · $4 tenant text · $5 key text · $6 the lane's progress before text ·
-- $7 the cursor's progress text
with owned as (
  select 1 from sandmill.cursors where processor = $1 and bucket = $3 and fence = $2 and progress::text = $7::text for share
),
gone as (
  delete from sandmill.exceptions
  where processor = $1 and tenant = $4 and lane_key = $5 and progress::text = $6::text and exists (select from owned)
  returning 1
)
select sandmill.must_change('let a lane of ' || $1 || ' rejoin', 1, (select count(*) from gone))
