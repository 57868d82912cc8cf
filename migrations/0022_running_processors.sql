-- The processors that hosts run, each with the process id of a session of its host. Processors
-- share their sessions, so this is the session that holds the host lock, for as long as that host
-- runs the processor.
create or replace view sandmill.running_processors as
select p.id, a.pid
from sandmill.processors p
join pg_catalog.pg_stat_activity a
  on a.pid = p.session and a.datname = current_database() and a.application_name = 'sandmill host'
  and coalesce(a.backend_start, p.session_since) = p.session_since;
