-- Counts dead letters of the serving generations, up to a maximum.
--
-- $1 text         processor; null = all
-- $2 text         tenant; null = all
-- $3 text         class; null = all
-- $4 timestamptz  earliest time at which they were last set aside; null = any
-- $5 bigint       maximum
select count(*)
from (
  select
  from sandmill.generations g
  cross join lateral (
    select
    from sandmill.dead_letters d
    where d.processor = g.processor and d.generation = g.generation
      and ($2::text is null or d.tenant = $2::text)
      and ($3::text is null or d.class = $3::text)
      and ($4::timestamptz is null or d.last_at >= $4::timestamptz)
    limit $5::bigint
  ) d
  where g.state = 'serving' and ($1::text is null or g.processor = $1::text)
  limit $5::bigint
) counted
