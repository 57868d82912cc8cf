-- Reads one dead letter of a processor's serving generation, with the plugin that ran the processor
-- last: its file's name, digest and version.
--
-- $1 text    processor
-- $2 bigint  position
select d.processor, d.tenant, d.lane_key, d.position, d.event_id, d.class, d.message, d.digest, d.attempts, d.first_at, d.last_at,
       d.stream, d.stream_version, d.backtrace, d.log_tail, p.plugin, p.digest, p.version
from sandmill.generations g
join sandmill.dead_letters d on d.processor = g.processor and d.generation = g.generation
join sandmill.processors p on p.id = g.processor
where g.processor = $1 and g.state = 'serving' and d.position = $2
