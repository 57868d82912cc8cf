-- Counts by tenant the events that this statement sees and a snapshot did not; each row begins with the snapshot that this statement sees. Without
-- any such event there is one row, whose tenant and number are null.
-- $1 snapshot text
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
