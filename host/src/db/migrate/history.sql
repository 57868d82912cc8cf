-- Creates the schema `sandmill` and the table of applied migrations. No binds.
--
-- A role with more rights may have created the schema already. `create schema if not exists` would
-- need the right to create schemas even then.
do $$
begin
  if not exists (select from pg_namespace where nspname = 'sandmill') then
    create schema sandmill;
  end if;
end
$$;
-- The migrations that were applied to this database.
create table if not exists sandmill.migrations (
  -- The migration's number, counted from 1.
  version int primary key check (version > 0),
  -- The file's name without `.sql`.
  name text not null,
  -- SHA-256 of the statements without comments, in hexadecimal; of the whole file, if an older
  -- version of Sandmill applied it.
  checksum text not null,
  applied_at timestamptz not null default now()
);
