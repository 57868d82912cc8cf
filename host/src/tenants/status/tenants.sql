-- Reads tenants, their usage, their lanes behind, and the progresses of those lanes. Recent usage
-- that was reported more than 5 s ago counts as 0. Tenants are found in the key of the streams, by
-- one lookup each. Lanes that a tenant's own processor replaces are left out.
--
-- $1 text[]  tenants; null = all
-- $2 text    order: cpu, waited, error or name
-- $3 bigint  maximum number of tenants
-- $4 bigint  maximum number of lanes examined per processor, where lanes are finer than tenants
with recursive walked as (
  (select tenant from sandmill.streams where $1::text[] is null order by tenant limit 1)
  union all
  select (select s.tenant from sandmill.streams s where s.tenant > walked.tenant order by s.tenant limit 1)
  from walked
  where walked.tenant is not null
),
found as (
  select tenant from walked
  union all
  select tenant from unnest($1::text[]) as given (tenant)
  where exists (select from sandmill.streams s where s.tenant = given.tenant)
),
chosen as (
  select found.tenant, u.*, u.updated_at > now() - interval '5 seconds' as fresh
  from found
  left join lateral (
    select cpu_seconds, waited_seconds, throttled_seconds, events, documents, bytes, failures, error_processor, error, error_at, refusals, refused,
           lately_cpu, lately_waited, lately_events, updated_at
    from sandmill.tenant_usage t where t.tenant = found.tenant
  ) u on true
  where found.tenant is not null
  order by
    case when $2 = 'cpu' and u.updated_at > now() - interval '5 seconds' then u.lately_cpu end desc nulls last,
    case when $2 = 'cpu' then u.cpu_seconds when $2 = 'waited' then u.waited_seconds + u.throttled_seconds end desc nulls last,
    case when $2 = 'error' then u.error_at end desc nulls last,
    found.tenant
  limit $3
)
select tenant, coalesce(cpu_seconds, 0), case when fresh then lately_cpu else 0 end, case when fresh then lately_events else 0 end,
       coalesce(waited_seconds, 0), case when fresh then lately_waited else 0 end, coalesce(throttled_seconds, 0),
       coalesce(events, 0), coalesce(documents, 0), coalesce(bytes, 0), coalesce(failures, 0), error_processor || ': ' || error,
       to_char(error_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
       behind.lanes,
       coalesce(refusals, 0), refused, behind.most > $4,
       array(
         select distinct first.progress
         from sandmill.generations g
         cross join lateral (
           select x.progress::text from sandmill.lane_checkpoints x
           where x.processor = g.processor and x.generation = g.generation and x.tenant = chosen.tenant
             and not (x.state = 'paused' and x.class = 'replaced') order by x.lane_key limit $4
         ) first
         where g.state = 'serving'
       )
from chosen
cross join lateral (
  -- One count per processor, by the key of `lane_checkpoints`: a processor may have very many lanes
  -- of other tenants.
  select coalesce(sum(counted.lanes), 0)::bigint as lanes, coalesce(max(counted.lanes), 0) as most
  from sandmill.generations g
  cross join lateral (
    select count(*) as lanes from sandmill.lane_checkpoints x
    where x.processor = g.processor and x.generation = g.generation and x.tenant = chosen.tenant
      and not (x.state = 'paused' and x.class = 'replaced')
  ) counted
  where g.state = 'serving'
) behind
order by
  case when $2 = 'cpu' and fresh then lately_cpu end desc nulls last,
  case when $2 = 'cpu' then cpu_seconds when $2 = 'waited' then waited_seconds + throttled_seconds end desc nulls last,
  case when $2 = 'error' then error_at end desc nulls last,
  tenant
