-- Records which host runs a processor, by the session that holds the host lock.
--
-- $1 text     processor
-- $2 integer  process id of that session
update sandmill.processors
set (session, session_since) = (select pid, backend_start from pg_stat_activity where pid = $2)
where id = $1
