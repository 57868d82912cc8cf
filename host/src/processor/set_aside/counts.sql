-- Counts the dead letters and the parked streams of each tenant in a generation.
--
-- $1 text     processor
-- $2 integer  generation
select tenant, sum(letters)::bigint, sum(streams)::bigint
from (
  select tenant, count(*) as letters, 0 as streams from sandmill.dead_letters
  where processor = $1 and generation = $2
  group by tenant
  union all
  select tenant, 0, count(*) from sandmill.parked_streams
  where processor = $1 and generation = $2
  group by tenant
) counted
group by tenant
