-- Reads what a host makes of its files. Those that are gone are left out but for these.
-- $1 plugins text[]
select plugin, processor, digest, version, contract, since, lanes, refused_digest, refused, refused_at, signed_by, gone_since is not null
from sandmill.plugins
where gone_since is null or plugin = any ($1::text[])
order by plugin
