-- Records the processors that wait for a connection, and clears the reason of those that no longer
-- do. A processor that reads nothing for another reason keeps that reason.
--
-- $1 text[]  ids of the processors that wait
-- $2 text    reason
update sandmill.processors
set held = case when id = any ($1) then $2 else '' end, held_since = now()
where case when id = any ($1) then held = '' else held = $2 end
