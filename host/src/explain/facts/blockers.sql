-- Finds the sessions that block a session of a host. Returns for each the purpose of the host's
-- session, the processor that it commits for or null, and its waiting time in seconds. Also returns
-- the blocking session's process id, name and age in seconds. No binds.
--
-- PostgreSQL cuts a session's name at 63 bytes. If it fits several processors, the processor is
-- null.
select substr(ours.application_name, length('sandmill ') + 1),
       (select min(r.id) from sandmill.running_processors r
        where left('sandmill commit ' || r.id, 63) = ours.application_name having count(*) = 1),
       coalesce(greatest(extract(epoch from clock_timestamp() - ours.query_start), 0), 0)::double precision,
       theirs.pid, coalesce(nullif(theirs.application_name, ''), 'no application name') || ', user ' || coalesce(theirs.usename, 'unknown'),
       coalesce(greatest(extract(epoch from clock_timestamp() - theirs.xact_start), 0), 0)::double precision
from pg_stat_activity ours
cross join lateral unnest(pg_blocking_pids(ours.pid)) as holder (pid)
join pg_stat_activity theirs on theirs.pid = holder.pid
where ours.datname = current_database() and ours.application_name like 'sandmill %' and ours.wait_event_type = 'Lock'
order by 3 desc
