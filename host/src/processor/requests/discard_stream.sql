-- Discards the first waiting event of a parked stream in a processor's serving generation, or all
-- of them, and counts them as discarded. The new fence rejects every earlier owner of the
-- processor. The caller has made sure that no host runs it. Returns the number of events.
--
-- $1 text     processor
-- $2 text     tenant
-- $3 text     stream
-- $4 boolean  whether to discard all
-- $5 text     new fencing token
-- $6 bigint   version of the first waiting event
with found as (
  select p.generation, p.events, case when $4 then p.events else 1 end as discarded
  from sandmill.generations g
  join sandmill.parked_streams p on p.processor = g.processor and p.generation = g.generation
  where g.processor = $1 and g.state = 'serving' and p.tenant = $2 and p.stream = $3
  for update of p
),
gone as (
  delete from sandmill.parked_streams p using found
  where p.processor = $1 and p.generation = found.generation and p.tenant = $2 and p.stream = $3
    and found.discarded = found.events
),
moved as (
  update sandmill.parked_streams p
  set next_version = $6::bigint + 1, events = p.events - 1, request = '', request_new = false
  from found
  where p.processor = $1 and p.generation = found.generation and p.tenant = $2 and p.stream = $3
    and found.discarded < found.events
),
counted as (
  update sandmill.cursors c
  set fence = $5, discarded = c.discarded + case
    when c.share = (select min(s.share) from sandmill.cursors s where s.processor = $1 and s.generation = found.generation)
    then found.discarded else 0 end
  from found
  where c.processor = $1 and c.generation = found.generation
)
select coalesce((select discarded from found), 0)::bigint
