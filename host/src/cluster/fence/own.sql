-- Records which host runs a processor from now on: the one whose session holds the host lock.
-- $1 processor text · $2 pid of that session integer
update sandmill.processors
set (session, session_since) = (select pid, backend_start from pg_stat_activity where pid = $2)
where id = $1
