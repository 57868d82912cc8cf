-- Rights of other roles: `sandmill migrate --grant-append` lets a role append and read streams,
-- `--grant-read` lets it read all documents.
--
-- `sandmill.append` runs with its owner's rights. So a role that may append needs no right to write
-- a table, and cannot write events in another way. A session that pretends to be on another cluster
-- deceives only itself. The search_path is pinned, as otherwise a caller's own operators could run
-- with the owner's rights. Both cost a few microseconds, less than the variation in the commit time
-- of an append.

-- The grants in force. A later migration that replaces the granted objects repeats them, and so
-- does a collection's new view.
create table sandmill.role_grants (
  -- The role's name, as a dump carries it into another cluster. A role that no longer exists is
  -- ignored.
  role text collate "C" not null,
  -- append: append events and read streams. read: read all documents.
  permission text not null check (permission in ('append', 'read')),
  -- When it was granted.
  granted_at timestamptz not null default now(),
  primary key (role, permission)
);

alter function sandmill.append(text, text, text[], json[], bigint, json[], text[], timestamptz[])
  security definer set search_path = pg_catalog, pg_temp;

-- Before, every role could execute it, and rights on the tables decided who may append. Roles that
-- had these rights may still append.
revoke execute on function sandmill.append(text, text, text[], json[], bigint, json[], text[], timestamptz[]) from public;
do $$
declare
  v_role text;
begin
  for v_role in
    select distinct case acl.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(acl.grantee)) end
    from pg_class c
    cross join lateral (
      select * from aclexplode(c.relacl)
      union all
      select col.* from pg_attribute a cross join aclexplode(a.attacl) col where a.attrelid = c.oid
    ) acl
    where c.oid = 'sandmill.events'::regclass and acl.privilege_type = 'INSERT' and acl.grantee <> c.relowner
  loop
    execute format(
      'grant execute on function sandmill.append(text, text, text[], json[], bigint, json[], text[], timestamptz[]) to %s', v_role);
  end loop;
end
$$;

-- Grants a new view to the roles that may read all documents.
create function sandmill.grant_documents_view(p_view text) returns void
language plpgsql as $$
declare
  v_role text;
begin
  -- A grant in progress misses this view, which is not committed yet. So one of the two waits for
  -- the other.
  lock table sandmill.role_grants in share mode;
  for v_role in
    select g.role from sandmill.role_grants g join pg_roles r on r.rolname = g.role where g.permission = 'read'
  loop
    execute format('grant select on public.%I to %I', p_view, v_role);
  end loop;
end
$$;

-- Creates a collection's view, if missing, and grants it to the roles that may read all documents.
-- Raises SM423 if another relation has its name.
create or replace function sandmill.make_documents_view(p_view text, p_number integer, p_generation integer) returns void
language plpgsql as $$
declare
  v_there regclass := to_regclass(format('public.%I', p_view));
begin
  if v_there is null then
    execute format('create view public.%I as select * from sandmill_documents.%I', p_view, format('c%s_%s', p_number, p_generation));
    execute format('comment on view public.%I is %L', p_view, 'sandmill collection');
    perform sandmill.grant_documents_view(p_view);
  elsif obj_description(v_there, 'pg_class') is distinct from 'sandmill collection' then
    raise exception 'public.% exists and is not a view of Sandmill''s', quote_ident(p_view)
      using errcode = 'SM423', hint = 'Name another collection in the plugin''s descriptor, or move that relation away.';
  end if;
end
$$;
