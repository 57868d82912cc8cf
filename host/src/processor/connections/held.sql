-- Says of processors that they wait for a connection, and of others that they no longer do. What else holds a processor stays as it is.
--   $1 text[]  ids of those that wait
--   $2 text    the words
update sandmill.processors
set held = case when id = any ($1) then $2 else '' end, held_since = now()
where case when id = any ($1) then held = '' else held = $2 end
