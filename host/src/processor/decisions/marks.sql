-- Reads operators' decisions, for each processor that has any. The pauses are a string with one
-- line per pause, as pauses/read.sql reads them, in byte order. Also returns whether there are
-- resumed lanes or requests that the host has not noticed yet. No binds.
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
     or exists (select from sandmill.dead_letters d where d.processor = p.id and d.request_new)
     or exists (select from sandmill.parked_streams s where s.processor = p.id and s.request_new)
) as decided (processor, pause, resumed)
group by processor
