-- Removes the bytes that no version refers to any more.
delete from sandmill.components c
where not exists (select from sandmill.retained_versions r where r.digest = c.digest)
