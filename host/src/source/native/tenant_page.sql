-- Reads a page of one tenant's part of a difference along the index (tenant, position), from its floor on. Bounds and order name both
-- columns, so that a walk along the primary key, past all other tenants' events, is no way to answer it.
-- $1 snapshot text · $2 snapshot text · $3 tenant text · $4 position above which bigint · $5 position up to which bigint · $6 limit bigint
select position, id, tenant, type, stream, version, recorded_at, data, metadata
from sandmill.events
where (tenant, position) > ($3, $4)
  and (tenant, position) <= ($3, $5)
  and not pg_visible_in_snapshot(xid, (select $1::text::pg_snapshot))
  and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
order by tenant, position
limit $6
