-- Finds transactions of other programs that have written something and are older than a second:
-- process id, name, and age in seconds. No binds.
select pid, coalesce(nullif(application_name, ''), 'no application name') || ', user ' || coalesce(usename, 'unknown'),
       extract(epoch from clock_timestamp() - xact_start)::double precision
from pg_stat_activity
where datname = current_database() and backend_xid is not null and application_name not like 'sandmill %'
  and xact_start < clock_timestamp() - interval '1 second'
order by xact_start
