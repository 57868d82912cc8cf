-- Lists the first tenants that have events, by name. Tenants are found in the key of the streams, by
-- one lookup each.
--
-- $1 bigint  maximum number of tenants
with recursive walked as (
  (select tenant from sandmill.streams order by tenant limit 1)
  union all
  select (select s.tenant from sandmill.streams s where s.tenant > walked.tenant order by s.tenant limit 1)
  from walked
  where walked.tenant is not null
)
select tenant from walked where tenant is not null limit $1
