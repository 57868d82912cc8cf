-- Begins an append for several tenants: checks the cluster, and locks the tenants if the store is
-- ordered by tenant. Locks are taken in the order of their keys, so that two imports do not
-- deadlock. "offset 0" keeps the sort below the call.
--
-- $1 text[]  tenants, each once
select sandmill.begin_append(tenant)
from (select tenant from unnest($1::text[]) as given (tenant) order by hashtext(tenant) offset 0) as in_order
