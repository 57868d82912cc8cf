-- Reads one tenant's last events up to a position, backwards along the index (tenant, position): as last.sql. Bounds and order name both columns, as in
-- tenant_page.sql; the lower bound is the smallest position there can be.
-- $1 position bigint · $2 types text[] or null for all · $3 events looked at bigint · $4 limit bigint · $5 tenant text
select position, id, tenant, type, stream, version, recorded_at, data, metadata
from (
  select * from sandmill.events
  where (tenant, position) >= ($5, '-9223372036854775808'::bigint)
    and (tenant, position) <= ($5, $1)
  order by tenant desc, position desc
  limit $3
) e
where $2::text[] is null or type = any ($2)
limit $4
