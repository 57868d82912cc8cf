-- Says that a file is not run, and why. What runs under its name stays what it is.
-- $1 plugin text · $2 digest text · $3 why text
insert into sandmill.plugins as p (plugin, refused_digest, refused, refused_at) values ($1, $2, $3, now())
on conflict (plugin) do update set refused_digest = $2, refused = $3, refused_at = now(), gone_since = null
where p.refused_digest <> $2 or p.refused <> $3 or p.gone_since is not null
