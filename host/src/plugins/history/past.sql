-- Reads what happened to a plugin, the last first.
-- $1 plugin text · $2 at most so many bigint
select id, processor, digest, version, event, reason, at, replaced, replaced_last, first, gap_ms, lanes, longest_ms, dry_run::text
from sandmill.plugin_versions where plugin = $1 order by id desc limit $2
