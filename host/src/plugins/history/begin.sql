-- Takes note of which files are there: others are gone since now, unless they lie in the folder of
-- a tenant that cannot be read. Nothing is kept of those that never ran.
-- $1 plugins that are there text[] · $2 tenants with unread folders text[]
with missing as (
  select p.plugin, p.digest <> '' or exists (select from sandmill.retained_versions r where r.plugin = p.plugin) as ran
  from sandmill.plugins p
  where p.plugin <> all ($1::text[]) and p.gone_since is null
    and not (position('/' in p.plugin) > 0 and split_part(p.plugin, '/', 1) = any ($2::text[]))
), forgotten as (
  delete from sandmill.plugins p using missing where p.plugin = missing.plugin and not missing.ran
)
update sandmill.plugins p set gone_since = now(), lanes = 0
from missing where p.plugin = missing.plugin and missing.ran
