-- Reads parked streams of the serving generations, by processor, tenant and stream.
--
-- $1 text    processor; null = all
-- $2 text    tenant; null = all
-- $3 text    stream; null = all
-- $4 text    processor of the last stream of the page before
-- $5 text    its tenant
-- $6 text    its name
-- $7 bigint  maximum number of streams
select p.processor, p.tenant, p.lane_key, p.stream, p.next_version, p.last_version, p.events, p.position, p.class,
       p.message, p.attempts, p.since, p.failed_at, p.request
from sandmill.generations g
join sandmill.parked_streams p on p.processor = g.processor and p.generation = g.generation
where g.state = 'serving' and ($1::text is null or p.processor = $1) and ($2::text is null or p.tenant = $2)
  and ($3::text is null or p.stream = $3) and (p.processor, p.tenant, p.stream) > ($4, $5, $6)
order by p.processor, p.tenant, p.stream
limit $7
