-- Reads what a host makes of its files.
select plugin, processor, digest, version, contract, since, lanes, refused_digest, refused, refused_at, signed_by
from sandmill.plugins order by plugin
