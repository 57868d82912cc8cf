-- Finds the processors that a host runs: each has a session of its own for its commits. Names of sessions have 63 bytes.
select p.id
from sandmill.processors p
where exists (
  select from pg_stat_activity a
  where a.datname = current_database() and a.application_name = left('sandmill commit ' || p.id, 63)
)
