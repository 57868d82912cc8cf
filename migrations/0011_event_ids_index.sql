-- The index under which event ids are unique within their tenant. The next migration puts it in the place of the present one.
--
-- Building it reads all events. Meanwhile events can be read but not appended, some two seconds for each million. For a store where
-- that is too long, build it beforehand while applications append, and this migration finds it there:
--
--   create unique index concurrently events_tenant_id_key on sandmill.events (tenant, id)
--
-- It is a migration of its own so that the lock for appends ends before the next one asks for the lock for everything: a transaction
-- that raises one to the other can deadlock with an application that reads and then appends.

create unique index if not exists events_tenant_id_key on sandmill.events (tenant, id);
