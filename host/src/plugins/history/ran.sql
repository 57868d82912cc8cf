-- Takes note of what runs under files' names, and how that came: one row for each place of the lists. Gives the notes' numbers, in that order.
-- A version that begins with its processor replaced the one that ran last as that processor, if
-- that was another one.
-- $1 plugins text[] · $2 processors text[] · $3 digests text[] · $4 versions text[] · $5 contracts text[] · $6 public keys that they are signed with text[], empty without ·
-- $7 events text[] · $8 reasons text[] · $9 what they replaced text[] · $10 the last events of that bigint[] · $11 what came of trying them on earlier events text[], JSON or null
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
