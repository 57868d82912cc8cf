-- Opens an append for several tenants: refuses a cluster that is not the store's, and takes their order where the store is ordered by
-- tenant. The locks are taken in the order of their keys, so that two imports never wait for each other in a circle. "offset 0" keeps
-- the sort below the call.
-- $1 tenants text[], each once
select sandmill.begin_append(tenant)
from (select tenant from unnest($1::text[]) as given (tenant) order by hashtext(tenant) offset 0) as in_order
