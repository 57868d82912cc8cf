-- Finds the session that holds a two-number advisory lock of this database. Returns its process id,
-- start, address and role, and whether it is a host's. Any role may take such a lock, but only a
-- host's role may update the processors.
--
-- $1 integer  first number of the lock
-- $2 integer  second number of the lock
select a.pid, to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'), host(a.client_addr), a.usename::text,
       a.application_name = 'sandmill host'
         -- A role that may not use the schema `sandmill` also finds the table here.
         and has_table_privilege(a.usesysid, (
           select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
           where n.nspname = 'sandmill' and c.relname = 'processors'
         ), 'update') is not false
from pg_locks l
join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory' and l.granted and l.objsubid = 2
  and l.database = (select oid from pg_database where datname = current_database())
  and l.classid = $1::int::bigint::oid and l.objid = $2::int::bigint::oid
limit 1
