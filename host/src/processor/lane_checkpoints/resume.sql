-- Lets lanes that wait for a person, or for their next attempt, go on now, and their host know of it. Their progress stays what it is.
-- $1 processor text · $2 tenant text, or null for all · $3 lane key text, or null for all
update sandmill.lane_checkpoints
set state = 'catching-up', next_at = null, since = now(), resumed = true
where processor = $1 and ($2::text is null or tenant = $2) and ($3::text is null or lane_key = $3) and state <> 'catching-up'
