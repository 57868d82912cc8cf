-- Moves the cursor of every bucket to the next progress, and adds the events handled to the row of
-- bucket 0. Fails the transaction if another term has taken the fence or the cursor has moved.
--
-- $1 text    processor
-- $2 text    fencing token
-- $3 text    progress before
-- $4 text    progress after
-- $5 bigint  number of buckets
-- $6 bigint  number of events handled
with moved as (
  update sandmill.cursors set progress = $4::text, handled = case when bucket = 0 then handled + $6 else handled end
  where processor = $1 and fence = $2 and progress::text = $3::text
  returning 1
)
select sandmill.must_change('move cursor of ' || $1, $5, (select count(*) from moved))
