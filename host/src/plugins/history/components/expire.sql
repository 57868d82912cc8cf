-- Deletes plugins whose files have been gone for too long, with their retained versions.
--
-- $1 integer  days
delete from sandmill.plugins where gone_since < now() - make_interval(days => $1)
