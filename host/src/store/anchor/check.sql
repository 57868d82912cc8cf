-- Reads whether the store's transaction ids belong to this cluster. Returns the recorded system
-- identifier, that of this cluster, and the next transaction id. Also returns a checkpoint that is
-- ahead of that id, with its processor, and the event with the highest transaction id, if it is
-- ahead. No binds.
with now as materialized (
  select pg_snapshot_xmax(pg_current_snapshot()) as next_xid
),
ahead as (
  select processor, progress
  from (
    select processor, progress::text from sandmill.cursors
    union all
    select processor, progress::text from sandmill.lane_checkpoints
  ) stored, now
  where pg_snapshot_xmax(split_part(progress, '|', 1)::pg_snapshot) > now.next_xid
     or pg_snapshot_xmax(nullif(split_part(progress, '|', 2), '')::pg_snapshot) > now.next_xid
  order by processor, progress
  limit 1
),
foreign_event as (
  select position, xid from sandmill.events where xid >= (select next_xid from now) order by xid desc limit 1
)
select store.system_identifier, control.system_identifier, now.next_xid::text,
       ahead.processor, ahead.progress, foreign_event.position, foreign_event.xid::text
from sandmill.store
cross join pg_control_system() control
cross join now
left join ahead on true
left join foreign_event on true
