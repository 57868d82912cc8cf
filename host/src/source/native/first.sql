-- Finds where the log begins: the lowest position visible now, or null.
select min(position) from sandmill.events
