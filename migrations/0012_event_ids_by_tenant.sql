-- Event ids, unique within their tenant. Before, they were unique in the whole store: a tenant's
-- ids kept another tenant from using them, and the error revealed that they exist.
--
-- The migration before built the index. These two clauses change the catalog only. They wait up to
-- a minute for transactions that have read or appended events, and other sessions queue behind
-- them.

alter table sandmill.events
  add constraint events_tenant_id_key unique using index events_tenant_id_key,
  drop constraint events_id_key;
