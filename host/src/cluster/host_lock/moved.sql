-- Lets the processors of a host whose lock was lost name the session that holds it now, which is this one.
-- $1 pid of the session that held it integer
update sandmill.processors
set (session, session_since) = (select pid, backend_start from pg_stat_activity where pid = pg_backend_pid())
where session = $1
