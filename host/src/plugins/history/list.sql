-- Reads the files of the plugins folder, and the version that the host runs for each. Plugins that
-- are gone are left out, except the named ones.
--
-- $1 text[]  plugins to include even if they are gone
select plugin, processor, digest, version, contract, since, lanes, refused_digest, refused, refused_at, signed_by, gone_since is not null
from sandmill.plugins
where gone_since is null or plugin = any ($1::text[])
order by plugin
