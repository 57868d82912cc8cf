-- Reads a whole small difference: at most $2 events visible now and not visible in the snapshot $1, in no order. As many as $2 mean
-- that there may be more; the caller then pages through it by position (wide.sql).
-- Two index look-ups instead of a scan of everything since the oldest running transaction: xids from xmax(A) on, and those members of
-- A's list of running ones that have finished. The sub-selects are computed once, and the planner cannot turn `limit` into a walk
-- along the primary key, as nothing is ordered here.
-- Runs in a repeatable read transaction, so that the snapshot here is the one the caller read before.
-- Data and metadata larger than $3 bytes stay where they are and are null here: what arrives is bounded by the two limits.
-- $1 snapshot text · $2 limit bigint · $3 bytes integer
select e.position, e.id, e.tenant, e.type, e.stream, e.version, e.recorded_at,
  case when pg_column_size(e.data) <= $3 and (pg_column_compression(e.data) is null or octet_length(e.data::text) <= $3) then e.data end,
  case when pg_column_size(e.metadata) <= 32 or pg_column_size(e.metadata) <= $3 and octet_length(e.metadata::text) <= $3 then e.metadata end
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
limit $2
