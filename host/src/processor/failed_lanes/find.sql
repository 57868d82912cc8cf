-- Reads the lanes of one tenant in a processor's serving generation that failed, with the plugin that
-- ran the processor last: blocked lanes, then those that wait for their next attempt, each by key.
-- Lanes that only wait because their tenant is over a rate are left out.
--
-- $1 text    processor
-- $2 text    tenant
-- $3 text    lane key; null = all
-- $4 bigint  maximum number of lanes
select l.lane_key, l.class, l.reason, l.attempts, l.event_position, l.progress::text, p.plugin, p.digest, p.version
from sandmill.generations g
join sandmill.lane_checkpoints l on l.processor = g.processor and l.generation = g.generation
join sandmill.processors p on p.id = g.processor
where g.processor = $1 and g.state = 'serving' and l.tenant = $2 and ($3::text is null or l.lane_key = $3)
  and (l.state = 'blocked' or l.state = 'retrying' and l.class <> 'throttled')
order by l.state, l.lane_key
limit $4
