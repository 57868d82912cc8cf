-- Which of these ids the store has already. The limit makes each a look-up of its own: an import must not become slower with the
-- size of the store.
-- $1 ids text[], each once
select known.id
from unnest($1::text[]) as given (id)
cross join lateral (select e.id from sandmill.events e where e.id = given.id limit 1) as known
