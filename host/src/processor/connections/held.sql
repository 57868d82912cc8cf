-- Records which processors wait for a connection, and clears that for those that no longer do. Any
-- other reason that holds a processor stays.
--   $1 text[]  ids of the processors that wait
--   $2 text    the reason
update sandmill.processors
set held = case when id = any ($1) then $2 else '' end, held_since = now()
where case when id = any ($1) then held = '' else held = $2 end
