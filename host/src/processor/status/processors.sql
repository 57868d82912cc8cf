-- Reads the state of every processor for `sandmill status`, with the cursor of its first bucket. A
-- rate that was not reported within 5 s is 0. The last dead letter and the last shed events are
-- null if there are none.
--
-- $1 bigint  maximum number of dead letters counted per processor
select p.id, p.plugin, p.version, p.digest,
       (select c.progress::text from sandmill.cursors c where c.processor = p.id order by c.bucket limit 1),
       case when p.reported_at > now() - interval '5 seconds' then p.rate else 0 end,
       (select coalesce(sum(c.handled), 0)::bigint from sandmill.cursors c where c.processor = p.id),
       (select 'by ' || z.paused_by || ' since ' || to_char(z.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
        from sandmill.pauses z where z.processor = p.id and z.tenant = ''),
       p.measures,
       (select count(*) from (select from sandmill.dead_letters d where d.processor = p.id limit $1) counted),
       last.tenant, last.position, last.class, last.message,
       p.shed_events, shed.tenant, shed.lane_key, shed.events, to_char(shed.shed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
       case when p.held <> '' then p.held || ' since ' || to_char(p.held_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') end,
       p.term_error, to_char(p.term_error_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
       to_char(p.term_error_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), p.term_errors
from sandmill.processors p
left join lateral (
  select tenant, position, class, message from sandmill.dead_letters d where d.processor = p.id order by position desc limit 1
) last on true
left join lateral (
  select tenant, lane_key, events, shed_at from sandmill.sheds s where s.processor = p.id order by id desc limit 1
) shed on true
order by p.id
