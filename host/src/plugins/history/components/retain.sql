-- Records retained versions, which have just begun to run. Returns the array positions of the
-- recorded ones, counted from 1. Leaves out versions without stored bytes, and plugins that are
-- gone.
--
-- Arrays of one length:
-- $1 text[]  plugins
-- $2 text[]  digests
-- $3 text[]  signatures
-- $4 text[]  public keys of the signatures
with ran as (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality as ran (plugin, digest, signature, signed_by, place)
), recorded as (
  insert into sandmill.retained_versions as r (plugin, digest, signature, signed_by)
  select ran.plugin, ran.digest, ran.signature, ran.signed_by
  from ran join sandmill.plugins using (plugin) join sandmill.components c on c.digest = ran.digest
  on conflict (plugin, digest) do update set ran_at = clock_timestamp(),
    signature = case when excluded.signature = '' then r.signature else excluded.signature end,
    signed_by = case when excluded.signature = '' then r.signed_by else excluded.signed_by end
  returning plugin, digest
)
select ran.place from ran join recorded on recorded.plugin = ran.plugin and recorded.digest = ran.digest
