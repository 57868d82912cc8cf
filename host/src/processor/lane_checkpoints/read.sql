-- Reads lane checkpoints of a processor, a page at a time, in the order of tenant and lane key.
--
-- $1 text    processor
-- $2 text    tenant of the last lane of the page before
-- $3 text    lane key of the last lane of the page before
-- $4 bigint  maximum number of lanes
select tenant, lane_key, progress::text, state, attempts, next_at
from sandmill.lane_checkpoints
where processor = $1 and (tenant, lane_key) > ($2, $3)
order by tenant, lane_key
limit $4
