-- Takes note of something that happened to a plugin.
-- $1 plugin text · $2 processor text · $3 digest text · $4 version text · $5 event text · $6 reason text · $7 replaced text · $8 replaced's last event bigint or null · $9 what came of trying it on earlier events, JSON text or null
insert into sandmill.plugin_versions (plugin, processor, digest, version, event, reason, replaced, replaced_last, dry_run)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb)
