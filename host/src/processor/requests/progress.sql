-- Counts which of these dead letters still exist in the serving generation, and which of those have
-- a request that is not answered.
--
-- $1 text      processor
-- $2 bigint[]  positions
select count(*), count(*) filter (where d.request <> '')
from sandmill.generations g
join sandmill.dead_letters d on d.processor = g.processor and d.generation = g.generation
where g.processor = $1 and g.state = 'serving' and d.position = any($2)
