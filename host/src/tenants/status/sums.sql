-- Reads the usage of tenants, and the number of their lanes behind the cursors by state, in the
-- serving generations, without those that a tenant's own processor replaces. A tenant without usage
-- has zeros.
--
-- $1 text[]  tenants
select given.tenant, coalesce(u.events, 0), coalesce(u.cpu_seconds, 0), coalesce(u.refusals, 0),
       lanes.blocked, lanes.retrying, lanes.paused, lanes.catching_up
from unnest($1::text[]) as given (tenant)
left join sandmill.tenant_usage u on u.tenant = given.tenant
cross join lateral (
  select coalesce(sum(of_one.blocked), 0)::bigint as blocked, coalesce(sum(of_one.retrying), 0)::bigint as retrying,
         coalesce(sum(of_one.paused), 0)::bigint as paused, coalesce(sum(of_one.catching_up), 0)::bigint as catching_up
  from sandmill.generations g
  -- Counted per processor, so that the key of `lane_checkpoints` is used.
  cross join lateral (
    select count(*) filter (where x.state = 'blocked') as blocked, count(*) filter (where x.state = 'retrying') as retrying,
           count(*) filter (where x.state = 'paused' and x.class <> 'replaced') as paused,
           count(*) filter (where x.state = 'catching-up') as catching_up
    from sandmill.lane_checkpoints x
    where x.processor = g.processor and x.generation = g.generation and x.tenant = given.tenant
  ) of_one
  where g.state = 'serving'
) lanes
order by given.tenant
