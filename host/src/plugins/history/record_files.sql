-- Marks the plugins without a file as gone, except those in a tenant's folder that cannot be read.
-- Deletes those of them that never ran.
--
-- $1 text[]  plugins that have a file
-- $2 text[]  tenants whose folder cannot be read
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
