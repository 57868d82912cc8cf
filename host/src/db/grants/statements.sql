-- Builds the statements that grant a permission to a role, or revoke it.
--
-- Every role may connect to the database and use the views' schema by default. So these rights are
-- granted only to a role that lacks them, and never revoked. Rights that another grant of the role
-- needs are not revoked either.
--
-- $1 text  role
-- $2 text  permission: append or read
-- $3 bool  true = grant, false = revoke
-- $4 text  tenant whose documents may be read; empty = all tenants
with words as (
  select case when $3::bool then 'grant' else 'revoke' end as verb, case when $3 then 'to' else 'from' end as preposition
),
views as (
  select c.tenant, s.views_schema as schema, c.view, true as everything
  from sandmill.collections c cross join sandmill.store s
  where $2::text = 'read' and $4::text = ''
  union all
  select c.tenant, 'sandmill_tenant', c.view, false
  from sandmill.collections c
  where $2 = 'read' and ($4 = '' or c.tenant in ('', $4))
),
parts as (
  select 1 as ordinal, 'usage on schema sandmill' as part where $2 = 'append'
  union all
  select 2, 'execute on function sandmill.append(text, text, text[], json[], bigint, json[], text[], timestamptz[])' where $2 = 'append'
  union all
  -- The columns that a reader of a stream selects or filters by.
  select 3, 'select (position, tenant, stream, version, type, id, recorded_at, data, metadata) on sandmill.events' where $2 = 'append'
  union all
  select 4, format('select on %I.%I', v.schema, v.view) from views v
  where obj_description(to_regclass(format('%I.%I', v.schema, v.view)), 'pg_class') in ('sandmill collection', 'sandmill collection, by tenant')
    and ($3 or not exists (
      select from sandmill.role_grants g
      where g.role = $1::text and g.permission = 'read' and (g.tenant = '' or not v.everything and v.tenant in ('', g.tenant))
    ))
  union all
  select 5, format('usage on schema %I', schema)
  from (
    select s.views_schema as schema from sandmill.store s where $4 = ''
    union
    select 'sandmill_tenant'
  ) found
  where $2 = 'read' and $3 and not has_schema_privilege($1::text::name, to_regnamespace(quote_ident(schema)), 'usage')
  union all
  select 6, format('connect on database %I', current_database()) where $3 and not has_database_privilege($1::text::name, current_database(), 'connect')
)
select format('%s %s %s %I', verb, part, preposition, $1::text) from words, parts order by ordinal, part
