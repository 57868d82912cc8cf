-- Records that this session commits for a processor from now on.
-- $1 processor text
update sandmill.processors set session = pg_backend_pid(), session_since = (select backend_start from pg_stat_activity where pid = pg_backend_pid())
where id = $1
