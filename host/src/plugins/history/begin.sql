-- Forgets what was known of files that are gone. Of tenants whose folders cannot be read nobody knows whether they are.
-- $1 plugins that are there text[] · $2 tenants with unread folders text[]
delete from sandmill.plugins
where plugin <> all ($1::text[]) and not (position('/' in plugin) > 0 and split_part(plugin, '/', 1) = any ($2::text[]))
