-- Moves a lane behind the cursor, if it stands where it was read and the fence of its bucket is ours; fails the transaction otherwise.
-- $1 processor text · $2 fence text · $3 bucket smallint · $4 tenant text · $5 key text · $6 progress before text · $7 progress after text ·
-- $8 state text · $9 attempts int · $10 next attempt timestamptz · $11 class text · $12 reason text · $13 event position bigint
with owned as (
  select 1 from sandmill.cursors where processor = $1 and bucket = $3 and fence = $2 for share
),
moved as (
  update sandmill.exceptions
  set progress = $7::text, state = $8, attempts = $9, next_at = $10, class = $11, reason = $12, event_position = $13,
      since = case when state = $8 and reason = $12 then since else now() end
  where processor = $1 and tenant = $4 and lane_key = $5 and progress::text = $6::text and exists (select from owned)
  returning 1
)
select sandmill.must_change('move a lane of ' || $1, 1, (select count(*) from moved))
