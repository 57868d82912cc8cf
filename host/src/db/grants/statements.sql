-- The statements that grant a role what a permission consists of, or revoke it. Connecting to the
-- database and finding the views, which every role may by default, is granted only to a role that
-- may not, and never revoked.
-- $1 role text · $2 permission text, append or read · $3 grant rather than revoke bool
with words as (
  select case when $3::bool then 'grant' else 'revoke' end as verb, case when $3 then 'to' else 'from' end as preposition
),
parts as (
  select 1 as ordinal, 'usage on schema sandmill' as part where $2::text = 'append'
  union all
  select 2, 'execute on function sandmill.append(text, text, text[], json[], bigint, json[], text[], timestamptz[])' where $2 = 'append'
  union all
  -- What a stream's reader selects, and looks for.
  select 3, 'select (position, tenant, stream, version, type, id, recorded_at, data, metadata) on sandmill.events' where $2 = 'append'
  union all
  select 4, format('select on public.%I', c.view) from sandmill.collections c
  where $2 = 'read' and obj_description(to_regclass(format('public.%I', c.view)), 'pg_class') = 'sandmill collection'
  union all
  select 5, 'usage on schema public' where $2 = 'read' and $3 and not has_schema_privilege($1::text::name, to_regnamespace('public'), 'usage')
  union all
  select 6, format('connect on database %I', current_database()) where $3 and not has_database_privilege($1::text::name, current_database(), 'connect')
)
select format('%s %s %s %I', verb, part, preposition, $1::text) from words, parts order by ordinal, part
