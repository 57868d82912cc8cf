-- Marks a plugin as gone, because its file is missing. Deletes it if it never ran.
--
-- $1 text  plugin
with found as (
  select p.plugin, p.digest <> '' or exists (select from sandmill.retained_versions r where r.plugin = p.plugin) as ran
  from sandmill.plugins p
  where p.plugin = $1 and p.gone_since is null
), forgotten as (
  delete from sandmill.plugins p using found where p.plugin = found.plugin and not found.ran
)
update sandmill.plugins p set gone_since = now(), lanes = 0
from found where p.plugin = found.plugin and found.ran
