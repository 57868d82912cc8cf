-- What people have decided about each processor, as a text that differs whenever that does. Processors about which nothing was
-- decided are left out.
-- $1 what stands for lanes that were resumed and do not know it yet text
select processor, string_agg(mark, ' ' order by mark)
from (
  select processor, format('%s %s %s %s', tenant, lane_key, paused_by, since) from sandmill.pauses
  union all
  select id, $1 from sandmill.processors p
  where exists (select from sandmill.exceptions e where e.processor = p.id and e.resumed)
) as decided (processor, mark)
group by processor
