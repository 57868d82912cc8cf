-- Reads dead letters of the serving generations, highest position first, and by processor where the
-- positions are equal. Letters of each processor are read in the order of an index: the primary key,
-- or that of tenants if one is given. Class and time are compared letter by letter.
--
-- $1 text         processor; null = all
-- $2 text         tenant; null = all
-- $3 text         class; null = all
-- $4 timestamptz  earliest time at which they were last set aside; null = any
-- $5 bigint       highest position: that of the last letter of the page before
-- $6 text         processor of that letter; at this position, only later processors are read
-- $7 bigint       maximum number of letters
select l.processor, l.tenant, l.lane_key, l.position, l.event_id, l.class, l.message, l.digest, l.attempts, l.first_at, l.last_at,
       l.stream, l.stream_version
from (
  select g.processor, g.generation, found.position
  from sandmill.generations g
  cross join lateral (
    select d.position
    from sandmill.dead_letters d
    where d.processor = g.processor and d.generation = g.generation
      and ($2::text is null or d.tenant = $2::text)
      and ($3::text is null or d.class = $3::text)
      and ($4::timestamptz is null or d.last_at >= $4::timestamptz)
      and d.position <= $5::bigint and (d.position < $5::bigint or d.processor > $6::text)
    order by d.position desc
    limit $7::bigint
  ) found
  where g.state = 'serving' and ($1::text is null or g.processor = $1::text)
  order by found.position desc, g.processor
  limit $7::bigint
) first
-- Joined last, so that messages are read only for the letters that are returned. Backtraces and log
-- lines are read by find.sql alone.
join sandmill.dead_letters l
  on l.processor = first.processor and l.generation = first.generation and l.position = first.position
order by l.position desc, l.processor
