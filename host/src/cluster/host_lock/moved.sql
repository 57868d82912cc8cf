-- Assigns the processors of a lost session to this session, which holds the host lock now.
--
-- $1 integer  process id of the session that held the lock before
update sandmill.processors
set (session, session_since) = (select pid, backend_start from pg_stat_activity where pid = pg_backend_pid())
where session = $1
