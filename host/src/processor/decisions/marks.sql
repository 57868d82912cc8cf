-- Reads operators' decisions, for each processor that has any. The pauses are a string with one
-- line per pause, as pauses/read.sql reads them, in byte order. Also returns whether there are
-- resumed lanes that the host has not noticed yet. No binds.
select processor, coalesce(string_agg(pause, E'\n' order by pause collate "C"), ''), bool_or(resumed)
from (
  select processor,
         format('%s %s by %s since %s', tenant, lane_key, paused_by, to_char(since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
         false
  from sandmill.pauses
  union all
  select id, null, true
  from sandmill.processors p
  where exists (select from sandmill.lane_checkpoints e where e.processor = p.id and e.resumed)
) as decided (processor, pause, resumed)
group by processor
