-- Reads lane checkpoints of a share, a page at a time, in the order of tenant and lane key.
--
-- $1 text      processor
-- $2 integer   generation
-- $3 smallint  first bucket of the share
-- $4 smallint  last bucket of the share
-- $5 text      tenant of the last lane of the page before
-- $6 text      lane key of the last lane of the page before
-- $7 bigint    maximum number of lanes
select tenant, lane_key, progress::text, state, attempts, next_at, skip_position, class, reason
from sandmill.lane_checkpoints
where processor = $1 and generation = $2 and bucket between $3 and $4 and (tenant, lane_key) > ($5, $6)
order by tenant, lane_key
limit $7
