-- Records the versions that began to run, and adds an entry to the history of each. Returns the
-- numbers of the entries, in order.
--
-- A version that starts with its processor counts as the replacement of the version that last ran
-- as that processor, if that was another one.
--
-- Arrays of one length:
-- $1  text[]    plugins
-- $2  text[]    processors
-- $3  text[]    digests
-- $4  text[]    versions
-- $5  text[]    contracts
-- $6  text[]    public keys of their signatures; empty = none
-- $7  text[]    events: what happened
-- $8  text[]    reasons
-- $9  text[]    digests of the replaced versions; empty = none
-- $10 bigint[]  positions of the last events that these handled, or null
-- $11 text[]    results of their dry runs, as JSON, or null
with ran as (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::text[])
    with ordinality as ran (plugin, processor, digest, version, contract, signed_by, event, reason, replaced, replaced_last, dry_run, place)
), runs as (
  insert into sandmill.plugins as p (plugin, processor, digest, version, contract, signed_by)
  select plugin, processor, digest, version, contract, signed_by from ran
  on conflict (plugin) do update set processor = excluded.processor, digest = excluded.digest, version = excluded.version,
    contract = excluded.contract, signed_by = excluded.signed_by, lanes = 0,
    since = case when p.digest = excluded.digest then p.since else now() end,
    refused_digest = '', refused = '', refused_at = null, gone_since = null
)
insert into sandmill.plugin_versions (plugin, processor, digest, version, signed_by, event, reason, replaced, replaced_last, dry_run)
select ran.plugin, ran.processor, ran.digest, ran.version, ran.signed_by, ran.event, ran.reason, coalesce(former.digest, ran.replaced),
  ran.replaced_last, ran.dry_run::jsonb
from ran
left join lateral (
  select last.digest from (
    select v.processor, v.digest from sandmill.plugin_versions v
    where v.plugin = ran.plugin and v.event in ('started', 'swapped', 'restarted', 'rolled-back', 'renamed')
    order by v.id desc
    limit 1
  ) last
  where last.processor = ran.processor and last.digest <> ran.digest
) former on ran.event in ('started', 'restarted')
order by ran.place
returning id
