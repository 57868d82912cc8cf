-- Adds an entry to a plugin's history.
--
-- $1 text    plugin
-- $2 text    processor
-- $3 text    digest
-- $4 text    version
-- $5 text    event: what happened
-- $6 text    reason
-- $7 text    digest of the replaced version; empty = none
-- $8 bigint  position of the last event that the replaced version handled, or null
-- $9 text    result of the dry run, as JSON, or null
insert into sandmill.plugin_versions (plugin, processor, digest, version, event, reason, replaced, replaced_last, dry_run)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb)
