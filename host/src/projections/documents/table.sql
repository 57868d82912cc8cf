-- Finds the table of a collection: its number, and the generation that readers see.
--
-- $1 text  tenant that owns it; empty = shared
-- $2 text  name
select number, generation from sandmill.collections where tenant = $1 and name = $2
