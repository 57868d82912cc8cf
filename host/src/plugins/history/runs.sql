-- Says what runs under a file's name.
-- $1 plugin text · $2 processor text · $3 digest text · $4 version text · $5 contract text · $6 the public key that it is signed with text, empty without
insert into sandmill.plugins as p (plugin, processor, digest, version, contract, signed_by) values ($1, $2, $3, $4, $5, $6)
on conflict (plugin) do update set processor = $2, digest = $3, version = $4, contract = $5, signed_by = $6, lanes = 0,
  since = case when p.digest = $3 then p.since else now() end,
  refused_digest = '', refused = '', refused_at = null
