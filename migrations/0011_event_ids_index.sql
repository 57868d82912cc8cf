-- The index that makes event ids unique within their tenant. The next migration turns it into the
-- constraint.
--
-- Building it reads all events. For about two seconds per million events, events can be read but
-- not appended. If that is too long, build the index beforehand while applications append; this
-- migration then finds it:
--
--   create unique index concurrently events_tenant_id_key on sandmill.events (tenant, id)
--
-- It is a migration of its own, so that its lock ends before the next one takes a stronger lock. A
-- transaction that raised one lock to the other could deadlock with an application that reads and
-- then appends.

create unique index if not exists events_tenant_id_key on sandmill.events (tenant, id);
