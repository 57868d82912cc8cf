-- Reads a page of one tenant's part of a difference along the index (tenant, position), from its
-- floor on. Bounds and order name both columns, so that PostgreSQL cannot walk the primary key past
-- the events of all other tenants. Data and metadata above the limit are not read and are null:
-- this limit and the number of rows bound what arrives.
--
-- $1 text     snapshot A
-- $2 text     snapshot B
-- $3 text     tenant
-- $4 bigint   position above which the page begins
-- $5 bigint   position up to which it is read
-- $6 bigint   maximum number of events
-- $7 integer  maximum bytes of data or metadata
select position, id, tenant, type, stream, version, recorded_at,
  case when pg_column_size(data) <= $7 and (pg_column_compression(data) is null or octet_length(data::text) <= $7) then data end,
  case when pg_column_size(metadata) <= 32 or pg_column_size(metadata) <= $7 and octet_length(metadata::text) <= $7 then metadata end
from sandmill.events
where (tenant, position) > ($3, $4)
  and (tenant, position) <= ($3, $5)
  and not pg_visible_in_snapshot(xid, (select $1::text::pg_snapshot))
  and pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
order by tenant, position
limit $6
