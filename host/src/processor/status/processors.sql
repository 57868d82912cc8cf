-- Reads the state of every processor for `sandmill status`, from the shares of its serving
-- generation: the cursor of the first share, the sums of rates and counts, and the measures of the
-- share that reported last. A rate that was not reported within 5 s is 0. The last dead letter and
-- the last shed events are null if there are none.
--
-- $1 bigint  maximum number of dead letters counted per processor
select p.id, p.plugin, p.version, p.digest,
       shares.progress, shares.rate, shares.handled,
       (select 'by ' || z.paused_by || ' since ' || to_char(z.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
        from sandmill.pauses z where z.processor = p.id and z.tenant = ''),
       coalesce(shares.measures, '{}'),
       (select count(*) from (
          select from sandmill.dead_letters d where d.processor = p.id and d.generation = g.generation limit $1
        ) counted),
       last.tenant, last.position, last.class, last.message,
       shares.shed_events, shed.tenant, shed.lane_key, shed.events, to_char(shed.shed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
       case when p.held <> '' then p.held || ' since ' || to_char(p.held_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') end,
       p.term_error, to_char(p.term_error_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
       to_char(p.term_error_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), p.term_errors,
       parked.streams, parked.events, shares.discarded
from sandmill.processors p
left join sandmill.generations g on g.processor = p.id and g.state = 'serving'
cross join lateral (
  select (array_agg(c.progress::text order by c.share))[1] as progress,
         coalesce(sum(c.rate) filter (where c.reported_at > now() - interval '5 seconds'), 0) as rate,
         coalesce(sum(c.handled), 0)::bigint as handled,
         (array_agg(c.measures order by c.reported_at desc))[1] as measures,
         coalesce(sum(c.shed_events), 0)::bigint as shed_events,
         coalesce(sum(c.discarded), 0)::bigint as discarded
  from sandmill.cursors c
  where c.processor = p.id and c.generation = g.generation
) shares
left join lateral (
  select tenant, position, class, message from sandmill.dead_letters d
  where d.processor = p.id and d.generation = g.generation order by position desc limit 1
) last on true
left join lateral (
  select tenant, lane_key, events, shed_at from sandmill.sheds s
  where s.processor = p.id and s.generation = g.generation order by id desc limit 1
) shed on true
cross join lateral (
  select count(*) as streams, coalesce(sum(s.events), 0)::bigint as events from sandmill.parked_streams s
  where s.processor = p.id and s.generation = g.generation
) parked
order by p.id
