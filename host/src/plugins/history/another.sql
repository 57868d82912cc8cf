-- Forgets what ran under the name of a file that was gone, if it has come back as another one. What
-- it could go back to stays. An unread file says nothing.
-- $1 plugin text · $2 the digest of the file that is there now text, empty where it was not read
update sandmill.plugins set processor = '', digest = '', version = '', contract = '', signed_by = ''
where plugin = $1 and gone_since is not null and $2 not in ('', coalesce(nullif(refused_digest, ''), digest))
