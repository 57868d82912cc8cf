-- Reads the distinct progress of the cursors and lane checkpoints that have handled something. No
-- binds.
select distinct progress
from (
  select progress::text from sandmill.cursors
  union all
  select progress::text from sandmill.lane_checkpoints
) stored
where progress !~ '^[0-9]+:[0-3]:\|\|$'
order by progress
