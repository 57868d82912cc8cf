-- Builds the statements that grant this session's role the rights it lacks for migrating and for
-- running a host. Their order is one in which they can be run. Reads only the catalogs, which every
-- role may read.
--
-- $1 bool  whether migrations are pending: tables and functions must then belong to the role
-- $2 text  schema of the views
-- $3 bool  whether that schema is created if it is missing
with me as (
  select quote_ident(current_user) as role
),
schemas as (
  select wanted.name, n.oid, wanted.ordinal,
    coalesce(has_schema_privilege(n.oid, 'usage') and (not wanted.creates or has_schema_privilege(n.oid, 'create')), false) as enough,
    case when wanted.creates then 'usage, create' else 'usage' end as privileges
  from (
    values (1, 'sandmill', $1::bool), (2, 'sandmill_documents', true), (3, 'sandmill_tenant', true), (4, $2::text, true)
  ) as wanted (ordinal, name, creates)
  left join pg_namespace n on n.nspname = wanted.name
),
-- A sequence of a column belongs to its table's owner.
relations as (
  select c.oid, c.relname, c.relkind, n.nspname, pg_has_role(c.relowner, 'usage') as owned,
    exists (
      select from pg_depend d
      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i') and c.relkind = 'S'
    ) as of_column
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname in ('sandmill', 'sandmill_documents') and c.relkind in ('r', 'v', 'S')
),
routines as (
  select p.oid::regprocedure::text as routine, p.proname, pg_has_role(p.proowner, 'usage') as owned,
    has_function_privilege(p.oid, 'execute') as executable
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = 'sandmill'
),
-- A host reads these tables and changes all others.
only_read (name) as (
  values ('events'), ('streams'), ('store'), ('migrations')
),
lacking as (
  select r.nspname, format('%I.%I', r.nspname, r.relname) as relation,
    case
      when r.relkind = 'S' then 'usage'
      when r.relkind = 'v' or r.nspname = 'sandmill' and r.relname in (select name from only_read) then 'select'
      else 'select, insert, update, delete'
    end as privileges
  from relations r
  where not r.owned and (
    -- Collections are numbered by an explicit call of their sequence. Identity columns of other
    -- tables need no right to theirs.
    r.relkind = 'S' and r.relname = 'collections_number_seq' and not has_sequence_privilege(r.oid, 'usage')
    or r.relkind <> 'S' and not has_table_privilege(r.oid, 'select')
    or r.relkind = 'r' and not (r.nspname = 'sandmill' and r.relname in (select name from only_read))
      and not (has_table_privilege(r.oid, 'insert') and has_table_privilege(r.oid, 'update') and has_table_privilege(r.oid, 'delete'))
  )
)
select statement from (
  select 10, format('grant create on database %I to %s', current_database(), role) as statement
  from me where not has_database_privilege(current_database(), 'create')
    and exists (select from schemas where oid is null and case when name = $2 then $3::bool else $1 end)
  union all
  select 20 + ordinal, case when oid is null then format('create schema %I authorization %s', name, role)
    else format('grant %s on schema %I to %s', privileges, name, role) end
  from me, schemas where not enough and (oid is not null or name = $2 and not $3)
  union all
  select 30, format('alter %s %I.%I owner to %s', case relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end, nspname, relname, role)
  from me, relations where $1 and nspname = 'sandmill' and not owned and not of_column
  union all
  select 31, format('alter domain sandmill.%I owner to %s', t.typname, role)
  from me, pg_type t join pg_namespace n on n.oid = t.typnamespace
  where $1 and n.nspname = 'sandmill' and t.typtype = 'd' and not pg_has_role(t.typowner, 'usage')
  union all
  select 32, format('alter function %s owner to %s', routine, role) from me, routines where $1 and not owned
  union all
  select 40, format('alter view %I.%I owner to %s', n.nspname, c.relname, role)
  from me, pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind = 'v' and obj_description(c.oid, 'pg_class') in ('sandmill collection', 'sandmill collection, by tenant')
    and not pg_has_role(c.relowner, 'usage')
  union all
  select 50, format('grant %s on %s%s to %s', privileges, case privileges when 'usage' then 'sequence ' else '' end,
    string_agg(relation, ', ' order by relation), role)
  from me, lacking where not $1 and nspname = 'sandmill' group by privileges, role
  union all
  select 51, format('grant execute on function %s to %s', string_agg(routine, ', ' order by routine), role)
  from me, routines where not $1 and not owned and not executable and proname <> 'append' group by role
  union all
  -- One statement for all tables, as there may be very many.
  select 52, format('grant select, insert, update, delete on all tables in schema sandmill_documents to %s', role)
  from me where exists (select from lacking where nspname = 'sandmill_documents')
  union all
  select 53, format('grant execute on function pg_catalog.pg_control_system() to %s', role)
  from me where not has_function_privilege('pg_control_system()', 'execute')
) as needed (ordinal, statement)
order by ordinal, statement
