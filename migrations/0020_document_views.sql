-- Views of documents: their schema becomes a setting of the store, and each gets a counterpart that
-- shows the documents of one tenant.
--
-- The views of all tenants' documents lie in `store.views_schema`, by default `public`. `sandmill
-- migrate --views-schema NAME` moves them.
--
-- `sandmill_tenant.orders` has the rows of `public.orders` that belong to the session's tenant.
-- That is the tenant that its role may read or, if the role may read several, the one in the
-- setting `sandmill.tenant`. Without that setting such a session gets an error, not an empty
-- answer. A role with `--grant-read ROLE --tenant NAME` can read these views only, so it cannot
-- reach another tenant's rows.
--
-- The restriction is a condition in the view instead of row security, for three reasons. The views'
-- owner reads the table for every role, so a policy would need to know the reader. The host's own
-- statements would have to pass the policy. PostgreSQL 14 has no views that read with the reader's
-- rights.
--
-- The tenant is computed once per query, so it is looked up in the table's index like any constant.
-- The views are security barriers: no function in a query sees a row of another tenant.

alter table sandmill.store
  -- The schema of the views of all tenants' documents.
  add column views_schema text not null default 'public' check (
    octet_length(views_schema) between 1 and 63 and views_schema !~ '^pg_'
    and views_schema not in ('information_schema', 'sandmill', 'sandmill_documents', 'sandmill_tenant')
  );

alter table sandmill.role_grants
  -- The tenant whose documents the role may read. Empty: all tenants.
  add column tenant text collate "C" not null default '' check (tenant ~ '^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$'),
  add check (permission = 'read' or tenant = ''),
  drop constraint role_grants_pkey,
  add primary key (role, permission, tenant);

-- The schema of the views of one tenant's documents. A role with more rights may have created it.
do $$
begin
  if not exists (select from pg_namespace where nspname = 'sandmill_tenant') then
    create schema sandmill_tenant;
  end if;
end
$$;

-- The tenant whose documents a role reads in this session. What a role may read is granted to it,
-- or to a role that it is a member of. A grant without a tenant covers all tenants; the tables'
-- owner and superusers need no grant. Raises 55000 if the role may read several and has chosen
-- none, and 42501 if it may not read the tenant.
--
-- It runs with its owner's rights, because readers may not see the grants. So the role is an
-- argument: here the current role is the owner.
create function sandmill.tenant_of(p_role name) returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_chosen text := nullif(current_setting('sandmill.tenant', true), '');
  v_tenants text[] := array(
    select g.tenant from sandmill.role_grants g
    where g.permission = 'read' and pg_has_role(p_role, to_regrole(quote_ident(g.role))::oid, 'usage')
  );
  -- In this function the current user is its owner.
  v_is_owner boolean := pg_has_role(p_role, current_user, 'usage');
begin
  if v_chosen is null then
    if not v_is_owner and v_tenants[1] <> '' and v_tenants[1] = all (v_tenants) then
      return v_tenants[1];
    elsif v_is_owner or cardinality(v_tenants) > 0 then
      raise exception 'no tenant is chosen, and the role % may read several', p_role
        using errcode = '55000', hint = 'Choose one first: select set_config(''sandmill.tenant'', ''NAME'', false)';
    end if;
  elsif v_chosen = any (v_tenants) or v_is_owner or '' = any (v_tenants) then
    return v_chosen;
  end if;
  raise exception 'the role % may not read documents of %', p_role, coalesce('tenant ' || v_chosen, 'any tenant')
    using errcode = '42501', hint = 'Grant it that: sandmill migrate --grant-read ROLE --tenant NAME';
end
$$;
grant execute on function sandmill.tenant_of(name) to public;

-- Whether a view exists and reads this table.
create function sandmill.reads_documents(p_view text, p_table text) returns boolean
language sql stable as $$
  select exists (
    select from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
    where r.ev_class = to_regclass(p_view) and d.refclassid = 'pg_class'::regclass and d.refobjid = to_regclass(p_table)
  )
$$;

-- Grants the new views of a collection, of all tenants and of one tenant, to the roles that may
-- read them.
create function sandmill.grant_documents_views(p_number integer) returns void
language plpgsql as $$
declare
  v_grant record;
begin
  for v_grant in
    select g.role, bool_or(g.tenant = '') as everything, c.view, s.views_schema
    from sandmill.collections c
    join sandmill.role_grants g on g.tenant = '' or c.tenant in ('', g.tenant)
    join pg_roles r on r.rolname = g.role
    cross join sandmill.store s
    where c.number = p_number and g.permission = 'read'
    group by g.role, c.view, s.views_schema
  loop
    if v_grant.everything then
      execute format('grant select on %I.%I to %I', v_grant.views_schema, v_grant.view, v_grant.role);
    end if;
    execute format('grant select on sandmill_tenant.%I to %I', v_grant.view, v_grant.role);
  end loop;
end
$$;

-- Points both views of a collection to the table of a generation, creating them where missing, and
-- grants them to the roles that may read them. Changes and locks nothing if they already read that
-- table. Raises SM423 if another relation has the name.
create or replace function sandmill.make_documents_view(p_view text, p_number integer, p_generation integer) returns void
language plpgsql as $$
declare
  v_table text := format('sandmill_documents.c%s_%s', p_number, p_generation);
  v_all text := (select format('%I.%I', s.views_schema, p_view) from sandmill.store s);
  v_one text := format('sandmill_tenant.%I', p_view);
begin
  if sandmill.reads_documents(v_all, v_table) and sandmill.reads_documents(v_one, v_table) then
    return;
  end if;
  -- A grant or a move of the views that is in progress misses these views, which are not committed
  -- yet. So one of the two waits for the other.
  lock table sandmill.role_grants in share mode;
  v_all := (select format('%I.%I', s.views_schema, p_view) from sandmill.store s);
  if not sandmill.reads_documents(v_all, v_table) then
    if to_regclass(v_all) is not null and obj_description(to_regclass(v_all), 'pg_class') is distinct from 'sandmill collection' then
      raise exception '% exists and is not a view of Sandmill''s', v_all
        using errcode = 'SM423',
              hint = 'Name another collection in the plugin''s descriptor, move that relation away, or give the views another schema: sandmill migrate --views-schema NAME';
    end if;
    execute format('create or replace view %s as select * from %s', v_all, v_table);
    execute format('comment on view %s is %L', v_all, 'sandmill collection');
  end if;
  if not sandmill.reads_documents(v_one, v_table) then
    execute format(
      'create or replace view %s with (security_barrier = true) as
         select d.* from %s d where d._partition = (select sandmill.tenant_of(current_user)) collate "C"',
      v_one, v_table);
    execute format('comment on view %s is %L', v_one, 'sandmill collection, by tenant');
  end if;
  perform sandmill.grant_documents_views(p_number);
end
$$;
drop function sandmill.grant_documents_view(text);

-- Moves the views of all tenants' documents to another schema, which is created if missing. Returns
-- the former schema. Rights on the views move with them, and roles that may read all documents may
-- use the new schema. Raises SM423 if a relation in the new schema has the name of a view.
create function sandmill.move_documents_views(p_schema text) returns text
language plpgsql as $$
declare
  v_before text;
  v_view text;
  v_role text;
begin
  lock table sandmill.role_grants in share row exclusive mode;
  v_before := (select s.views_schema from sandmill.store s);
  if p_schema = v_before then
    return v_before;
  end if;
  -- First, because the table checks whether the schema is allowed.
  update sandmill.store set views_schema = p_schema;
  if to_regnamespace(quote_ident(p_schema)) is null then
    execute format('create schema %I', p_schema);
  end if;
  for v_view in select c.view from sandmill.collections c order by c.number loop
    continue when obj_description(to_regclass(format('%I.%I', v_before, v_view)), 'pg_class') is distinct from 'sandmill collection';
    if to_regclass(format('%I.%I', p_schema, v_view)) is not null then
      raise exception '%.% exists and is in the way of the view that would be moved there', quote_ident(p_schema), quote_ident(v_view)
        using errcode = 'SM423', hint = 'Move that relation away, or name another schema. Nothing was moved.';
    end if;
    execute format('alter view %I.%I set schema %I', v_before, v_view, p_schema);
  end loop;
  for v_role in
    select g.role from sandmill.role_grants g
    join pg_roles r on r.rolname = g.role
    where g.permission = 'read' and g.tenant = '' and not has_schema_privilege(r.oid, to_regnamespace(quote_ident(p_schema)), 'usage')
  loop
    execute format('grant usage on schema %I to %I', p_schema, v_role);
  end loop;
  return v_before;
end
$$;

-- Creates the counterparts of the existing views. Roles that may read all documents may read these
-- too.
do $$
declare
  v_role text;
begin
  perform sandmill.make_documents_view(c.view, c.number, c.generation)
  from sandmill.collections c
  where obj_description(to_regclass(format('public.%I', c.view)), 'pg_class') = 'sandmill collection'
    and to_regclass(format('sandmill_documents.c%s_%s', c.number, c.generation)) is not null
  order by c.number;
  for v_role in
    select g.role from sandmill.role_grants g join pg_roles r on r.rolname = g.role where g.permission = 'read'
  loop
    execute format('grant usage on schema sandmill_tenant to %I', v_role);
  end loop;
end
$$;
