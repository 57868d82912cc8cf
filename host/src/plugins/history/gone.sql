-- Takes note that there is no file of this name any more. Nothing is kept of one that never ran.
-- $1 plugin text
with found as (
  select p.plugin, p.digest <> '' or exists (select from sandmill.retained_versions r where r.plugin = p.plugin) as ran
  from sandmill.plugins p
  where p.plugin = $1 and p.gone_since is null
), forgotten as (
  delete from sandmill.plugins p using found where p.plugin = found.plugin and not found.ran
)
update sandmill.plugins p set gone_since = now(), lanes = 0
from found where p.plugin = found.plugin and found.ran
