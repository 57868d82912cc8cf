-- Reads the bytes of a plugin's retained version, and its signature. The bytes are null if they
-- exceed the limit.
--
-- $1 text    plugin
-- $2 text    digest
-- $3 bigint  maximum bytes
select case when octet_length(c.bytes)::bigint <= $3 then c.bytes end, r.signature
from sandmill.retained_versions r join sandmill.components c using (digest)
where r.plugin = $1 and r.digest = $2
