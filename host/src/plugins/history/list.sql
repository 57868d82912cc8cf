-- Reads what a host makes of its files.
select plugin, processor, digest, version, contract, since, lanes, refused_digest, refused, refused_at from sandmill.plugins order by plugin
