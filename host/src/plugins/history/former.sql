-- Finds the version that ran last under a file's name, of those that may run again. Only those
-- count that ran as the same processor as the version which runs now: another one has other
-- documents.
-- $1 plugin text · $2 the digest of the version that runs now text · $3 digests that may not run
-- text[]
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
