-- Reads a small difference as a whole: first a row with the current snapshot in the last column,
-- then the events that it sees and the given snapshot does not, in no order. If as many events come
-- as the limit allows, there may be more; the caller then pages by position (wide.sql).
--
-- Two index lookups replace a scan of everything since the oldest running transaction. One finds
-- transactions from the snapshot's xmax on, the other those that ran at the time of the snapshot
-- and have ended since. The sub-selects are computed once. As nothing is ordered here, the planner
-- cannot turn `limit` into a walk along the primary key.
--
-- A statement has one snapshot, so both parts agree without a transaction around them. Data and
-- metadata above the limit are not read and are null: this limit and the number of rows bound what
-- arrives.
--
-- $1 text     snapshot
-- $2 bigint   maximum number of events
-- $3 integer  maximum bytes of data or metadata
select null as position, null as id, null as tenant, null as type, null as stream, null as version, null as recorded_at,
  null as data, null as metadata, pg_current_snapshot()::text as head
union all
(select e.position, e.id, e.tenant, e.type, e.stream, e.version, e.recorded_at,
  case when pg_column_size(e.data) <= $3 and (pg_column_compression(e.data) is null or octet_length(e.data::text) <= $3) then e.data end,
  case when pg_column_size(e.metadata) <= 32 or pg_column_size(e.metadata) <= $3 and octet_length(e.metadata::text) <= $3 then e.metadata end,
  null
from (
  select * from sandmill.events
  where xid >= (select pg_snapshot_xmax($1::text::pg_snapshot))
    and xid < (select pg_snapshot_xmax(pg_current_snapshot()))
    and pg_visible_in_snapshot(xid, (select pg_current_snapshot()))
  union all
  select * from sandmill.events
  where xid = any (array(
    select x from pg_snapshot_xip($1::text::pg_snapshot) x where pg_visible_in_snapshot(x, pg_current_snapshot())
  ))
) e
limit $2)
