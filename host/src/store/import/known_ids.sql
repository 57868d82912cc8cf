-- Which of these ids their tenants have already, by their places in the arrays from 1, with what tells whether the event is the same: its stream, type and time, and the
-- digests of its data and metadata. The limit makes each a look-up of its own: an import must not become slower with the size of the
-- store.
-- Arrays of one length, each pair once: $1 tenants text[] · $2 ids text[]
select given.ordinal, known.stream, known.type, known.recorded_at,
       sha256(convert_to(known.data::text, 'UTF8')), sha256(convert_to(known.metadata::text, 'UTF8'))
from unnest($1::text[], $2::text[]) with ordinality as given (tenant, id, ordinal)
cross join lateral (
  select e.* from sandmill.events e where e.tenant = given.tenant and e.id = given.id limit 1
) as known
