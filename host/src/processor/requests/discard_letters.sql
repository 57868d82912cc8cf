-- Deletes dead letters of a processor's serving generation, and counts them as discarded. The new
-- fence rejects every earlier owner of the processor. The caller has made sure that no host runs
-- it. Returns the letters' positions and tenants.
--
-- $1 text         processor
-- $2 bigint       position; null = all
-- $3 text         tenant; null = all
-- $4 text         class; null = all
-- $5 timestamptz  earliest time at which they were last set aside; null = any
-- $6 text         new fencing token
with gone as (
  delete from sandmill.dead_letters d
  using sandmill.generations g
  where g.processor = $1 and g.state = 'serving' and d.processor = g.processor and d.generation = g.generation
    and ($2::bigint is null or d.position = $2) and ($3::text is null or d.tenant = $3)
    and ($4::text is null or d.class = $4) and ($5::timestamptz is null or d.last_at >= $5)
  returning d.position, d.tenant
),
counted as (
  update sandmill.cursors c
  set fence = $6, discarded = c.discarded + case when c.share = first.share then (select count(*) from gone) else 0 end
  from (
    select min(s.share) as share, g.generation
    from sandmill.generations g join sandmill.cursors s using (processor, generation)
    where g.processor = $1 and g.state = 'serving'
    group by g.generation
  ) first
  where c.processor = $1 and c.generation = first.generation
)
select position, tenant from gone
