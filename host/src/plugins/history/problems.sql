-- Makes what is known of the plugins folder's other entries what was found now.
-- $1 paths text[] · $2 what is wrong text[] · $3 what to do text[]
with gone as (delete from sandmill.folder_problems where path <> all ($1::text[]))
insert into sandmill.folder_problems as f (path, problem, remedy)
select distinct on (path) path, problem, remedy
from unnest($1::text[], $2::text[], $3::text[]) as found (path, problem, remedy)
order by path, problem
on conflict (path) do update set problem = excluded.problem, remedy = excluded.remedy, since = now()
where (f.problem, f.remedy) is distinct from (excluded.problem, excluded.remedy)
