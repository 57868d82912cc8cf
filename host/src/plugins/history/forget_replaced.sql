-- Clears the version that ran under the name of a missing file, if another file has appeared under
-- that name. Its retained versions stay. A file that was not read changes nothing.
--
-- $1 text  plugin
-- $2 text  digest of the file that exists now; empty = not read
update sandmill.plugins set processor = '', digest = '', version = '', contract = '', signed_by = ''
where plugin = $1 and gone_since is not null and $2 not in ('', coalesce(nullif(refused_digest, ''), digest))
