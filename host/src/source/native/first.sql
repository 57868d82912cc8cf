-- Finds the beginning of the log: the lowest position visible now, or null. No binds.
select min(position) from sandmill.events
