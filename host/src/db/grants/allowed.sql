-- Reads whether a role may do what a permission covers, by this or any other grant.
--
-- $1 text  role
-- $2 text  permission: append or read
-- $3 text  tenant whose documents may be read; empty = all tenants
with relations as (
  select case when $3::text = '' then format('%I.%I', s.views_schema, c.view) else format('sandmill_tenant.%I', c.view) end as view
  from sandmill.collections c cross join sandmill.store s
  where $3 = '' or c.tenant in ('', $3)
)
select has_database_privilege($1::text::name, current_database(), 'connect') and case
  when $2::text = 'append' then
    has_schema_privilege($1::text::name, 'sandmill', 'usage')
    and has_function_privilege($1::text::name, 'sandmill.append(text, text, text[], json[], bigint, json[], text[], timestamptz[])', 'execute')
    and (
      select bool_and(has_column_privilege($1::text::name, 'sandmill.events', name, 'select'))
      from unnest(array['position', 'tenant', 'stream', 'version', 'type', 'id', 'recorded_at', 'data', 'metadata']) as name
    )
  else
    (
      select coalesce(has_schema_privilege($1::text::name, to_regnamespace(case when $3 = '' then quote_ident(s.views_schema) else 'sandmill_tenant' end), 'usage'), false)
      from sandmill.store s
    )
    and not exists (select from relations where not has_table_privilege($1::text::name, to_regclass(view), 'select'))
    and (
      $3 = ''
      or exists (
        select from sandmill.role_grants g
        where g.permission = 'read' and g.tenant in ('', $3)
          and pg_has_role($1::text::name, to_regrole(quote_ident(g.role))::oid, 'usage')
      )
      or pg_has_role($1::text::name, (select p.proowner from pg_proc p where p.oid = 'sandmill.tenant_of(name)'::regprocedure), 'usage')
    )
end
