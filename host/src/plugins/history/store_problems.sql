-- Replaces the recorded problems of the plugins folder with those found now. A problem whose text
-- is unchanged keeps its time.
--
-- Arrays of one length:
-- $1 text[]  paths
-- $2 text[]  problems
-- $3 text[]  remedies
with gone as (delete from sandmill.folder_problems where path <> all ($1::text[]))
insert into sandmill.folder_problems as f (path, problem, remedy)
select distinct on (path) path, problem, remedy
from unnest($1::text[], $2::text[], $3::text[]) as found (path, problem, remedy)
order by path, problem
on conflict (path) do update set problem = excluded.problem, remedy = excluded.remedy, since = now()
where (f.problem, f.remedy) is distinct from (excluded.problem, excluded.remedy)
