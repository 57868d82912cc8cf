-- Gives a new processor its cursors, all at one progress; those of one that was there before stay.
-- $1 id text · $2 buckets int · $3 progress text
insert into sandmill.cursors (processor, bucket, progress)
select $1, bucket, $3::text from generate_series(0, $2::int - 1) as bucket
on conflict do nothing
