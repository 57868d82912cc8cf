-- Removes pauses.
--
-- $1 text  processor
-- $2 text  tenant; null = all
-- $3 text  lane key; null = all
delete from sandmill.pauses
where processor = $1 and ($2::text is null or tenant = $2) and ($3::text is null or lane_key = $3)
