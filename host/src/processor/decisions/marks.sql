-- Reads a mark for each processor: a text that changes when an operator decides something about it.
-- Processors without a decision are left out.
--
-- $1 text  part of the mark for resumed lanes that their host has not noticed yet
select processor, string_agg(mark, ' ' order by mark)
from (
  select processor, format('%s %s %s %s', tenant, lane_key, paused_by, since) from sandmill.pauses
  union all
  select id, $1 from sandmill.processors p
  where exists (select from sandmill.lane_checkpoints e where e.processor = p.id and e.resumed)
) as decided (processor, mark)
group by processor
