-- Deletes the bytes that no retained version refers to. No binds.
delete from sandmill.components c
where not exists (select from sandmill.retained_versions r where r.digest = c.digest)
