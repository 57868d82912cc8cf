-- Records that a file was rejected, and why. The version that runs under its name stays recorded.
-- Writes nothing if this is recorded already.
--
-- $1 text  plugin
-- $2 text  digest
-- $3 text  reason
insert into sandmill.plugins as p (plugin, refused_digest, refused, refused_at) values ($1, $2, $3, now())
on conflict (plugin) do update set refused_digest = $2, refused = $3, refused_at = now(), gone_since = null
where p.refused_digest <> $2 or p.refused <> $3 or p.gone_since is not null
