-- Finds the events that have one of these ids. Returns the array position of the id, counted from
-- 1, and what is needed to compare the event: stream, type, time, and digests of data and metadata.
-- The limit makes each id an index lookup of its own, so that an import does not slow down as the
-- store grows.
--
-- Arrays of one length, each pair once:
-- $1 text[]  tenants
-- $2 text[]  ids
select given.ordinal, known.stream, known.type, known.recorded_at,
       sha256(convert_to(known.data::text, 'UTF8')), sha256(convert_to(known.metadata::text, 'UTF8'))
from unnest($1::text[], $2::text[]) with ordinality as given (tenant, id, ordinal)
cross join lateral (
  select e.* from sandmill.events e where e.tenant = given.tenant and e.id = given.id limit 1
) as known
