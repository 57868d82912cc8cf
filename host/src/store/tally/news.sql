-- Counts by tenant the events that this statement sees and the snapshot does not. Each row begins
-- with this statement's own snapshot. If there are no such events, one row with tenant and number
-- null is returned.
--
-- $1 text  snapshot
select pg_current_snapshot()::text, news.tenant, news.events
from (values (true)) as always (there)
left join (
  select tenant, count(*) as events from (
    select tenant from sandmill.events
    where xid >= (select pg_snapshot_xmax($1::text::pg_snapshot))
    union all
    select tenant from sandmill.events
    where xid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
  ) unseen
  group by tenant
) news on true
