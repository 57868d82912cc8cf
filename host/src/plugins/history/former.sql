-- Finds what ran under a file's name before a version took over, and the key that it was signed with.
-- $1 plugin text · $2 the version's digest text
select former.digest, former.signed_by
from sandmill.plugin_versions swap
cross join lateral (
  select digest, signed_by from sandmill.plugin_versions
  where plugin = $1 and digest = swap.replaced and event in ('started', 'swapped', 'restarted', 'rolled-back', 'renamed')
  order by id desc
  limit 1
) former
where swap.plugin = $1 and swap.digest = $2 and swap.event = 'swapped' and swap.replaced <> $2
order by swap.id desc
limit 1
