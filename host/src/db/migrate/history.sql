-- Makes the schema and the record of what was applied to it. No binds. The schema may have been prepared by somebody with more
-- rights, and to create one "if not exists" needs those rights even where it exists.
do $$
begin
  if not exists (select from pg_namespace where nspname = 'sandmill') then
    create schema sandmill;
  end if;
end
$$;
create table if not exists sandmill.migrations (
  version int primary key check (version > 0),
  name text not null,
  -- SHA-256 of the file's text, in hexadecimal.
  checksum text not null,
  applied_at timestamptz not null default now()
);
