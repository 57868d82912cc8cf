-- Processors share their sessions, so the session that a processor names is the one that holds the
-- host lock, as long as that host runs it.
create or replace view sandmill.running_processors as
select p.id, a.pid
from sandmill.processors p
join pg_catalog.pg_stat_activity a
  on a.pid = p.session and a.datname = current_database() and a.application_name = 'sandmill host'
  and coalesce(a.backend_start, p.session_since) = p.session_since;
