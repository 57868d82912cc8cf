-- Takes pauses back.
-- $1 processor text · $2 tenant text, or null for all · $3 lane key text, or null for all
delete from sandmill.pauses
where processor = $1 and ($2::text is null or tenant = $2) and ($3::text is null or lane_key = $3)
