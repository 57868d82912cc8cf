-- Finds the processors that a host runs: the session that commits for each is there. When it began
-- is seen only by its own role and by monitors.
select p.id
from sandmill.processors p
join pg_stat_activity a on a.pid = p.session and a.datname = current_database()
  and coalesce(a.backend_start, p.session_since) = p.session_since
