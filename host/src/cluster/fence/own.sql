-- Records that the host whose session holds the host lock runs a processor from now on.
-- $1 processor text · $2, $3 the lock's numbers int
update sandmill.processors
set (session, session_since) = (
  select a.pid, a.backend_start
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid
  where l.locktype = 'advisory' and l.granted and l.objsubid = 2
    and l.database = (select oid from pg_database where datname = current_database())
    and l.classid = $2::int::bigint::oid and l.objid = $3::int::bigint::oid
  limit 1
)
where id = $1
