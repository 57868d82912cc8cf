-- Reads the lanes that a processor left behind, those that follow a lane in the table's order.
-- $1 processor text · $2 tenant text · $3 lane key text · $4 at most so many bigint
select tenant, lane_key, progress::text, state, attempts, next_at
from sandmill.lane_checkpoints
where processor = $1 and (tenant, lane_key) > ($2, $3)
order by tenant, lane_key
limit $4
