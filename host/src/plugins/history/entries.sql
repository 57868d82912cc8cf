-- Reads the history of a plugin, newest first.
--
-- $1 text    plugin
-- $2 bigint  maximum number of entries
select id, processor, digest, version, event, reason, at, replaced, replaced_last, first, gap_ms, lanes, longest_ms, dry_run::text
from sandmill.plugin_versions where plugin = $1 order by id desc limit $2
