-- Reads every progress that some cursor or lane stands at, each once, but for those that have handled nothing.
select distinct progress
from (
  select progress::text from sandmill.cursors
  union all
  select progress::text from sandmill.lane_checkpoints
) place
where progress !~ '^[0-9]+:[0-3]:\|\|$'
order by progress
