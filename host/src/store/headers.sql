-- Reads what identifies the events at given positions, without their data. Positions without an
-- event are left out.
--
-- $1 bigint[]  positions
select e.position, e.tenant, e.stream, e.version, e.type, e.id
from unnest($1::bigint[]) as given (position)
join sandmill.events e on e.position = given.position
