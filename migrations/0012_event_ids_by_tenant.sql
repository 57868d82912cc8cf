-- Event ids are unique within their tenant. Before, they were unique in the whole store, so one tenant's ids kept another tenant from
-- using the same ones, and the error told it that they exist.
--
-- The index was built by the migration before. Both statements change the catalog alone; they wait for transactions that have read or
-- appended events, for a minute at most, and whatever comes meanwhile waits behind them.

alter table sandmill.events
  add constraint events_tenant_id_key unique using index events_tenant_id_key,
  drop constraint events_id_key;
