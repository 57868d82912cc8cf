-- Finds the table of a collection's serving generation.
-- $1 whose it is text, empty for everybody's · $2 name text
select number, generation from sandmill.collections where tenant = $1 and name = $2
