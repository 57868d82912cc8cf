-- Reads the maximum number of connections that this role may have to this database, over all
-- clients. No binds.
select least(
  current_setting('max_connections')::int - case
    when r.rolsuper then 0
    else current_setting('superuser_reserved_connections')::int
      -- Added in PostgreSQL 16.
      + coalesce(current_setting('reserved_connections', true)::int, 0)
  end,
  case when not r.rolsuper and r.rolconnlimit >= 0 then r.rolconnlimit end,
  case when not r.rolsuper and d.datconnlimit >= 0 then d.datconnlimit end
)
from pg_roles r, pg_database d
where r.rolname = current_user and d.datname = current_database()
