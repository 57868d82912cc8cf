-- Finds the processors that a host runs.
select id from sandmill.running_processors
