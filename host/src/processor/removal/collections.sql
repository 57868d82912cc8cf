-- Lists the collections that a processor writes, or that were kept of it.
-- $1 processor text
select number, generation, view from sandmill.collections where processor = $1 or kept_from = $1 order by name
