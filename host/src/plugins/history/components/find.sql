-- Reads the bytes of a version that a plugin can go back to; null where they are more than wanted.
-- $1 plugin text · $2 digest text · $3 at most so many bytes bigint
select case when octet_length(c.bytes)::bigint <= $3 then c.bytes end, r.signature
from sandmill.retained_versions r join sandmill.components c using (digest)
where r.plugin = $1 and r.digest = $2
