-- Finds the version that last ran under a file's name and may run again. Only versions that ran as
-- the same processor as the current one count, because another processor has other documents.
--
-- $1 text    plugin
-- $2 text    digest of the version that runs now
-- $3 text[]  digests that may not run
with now as (
  select processor from sandmill.plugin_versions
  where plugin = $1 and digest = $2 and event in ('started', 'swapped', 'restarted', 'rolled-back', 'renamed')
  order by id desc
  limit 1
)
select v.digest
from sandmill.plugin_versions v join now using (processor)
where v.plugin = $1 and v.digest <> all ($3::text[])
  and v.event in ('started', 'swapped', 'restarted', 'rolled-back', 'renamed')
order by v.id desc
limit 1
