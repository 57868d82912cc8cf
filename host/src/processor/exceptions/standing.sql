-- Reads the first lanes of a processor that wait for a person, with how many there are.
-- $1 processor text · $2 at most so many bigint
select tenant, lane_key, class, reason, count(*) over ()
from sandmill.exceptions
where processor = $1 and state in ('blocked', 'paused')
order by tenant, lane_key
limit $2
