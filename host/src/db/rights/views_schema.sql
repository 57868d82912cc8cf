-- Reads whether the role may read the views' schema from the store. For a role that may not, it
-- returns a guess: the schema of an existing view, or else the default. Reads only the catalogs. No
-- binds.
select coalesce(
    (select has_schema_privilege(c.relnamespace, 'usage') and has_column_privilege(c.oid, a.attnum, 'select')
     from pg_namespace n
     join pg_class c on c.relnamespace = n.oid and c.relname = 'store'
     join pg_attribute a on a.attrelid = c.oid and a.attname = 'views_schema' and not a.attisdropped
     where n.nspname = 'sandmill'),
    false),
  coalesce(
    (select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'v' and obj_description(c.oid, 'pg_class') = 'sandmill collection' limit 1),
    'public')
