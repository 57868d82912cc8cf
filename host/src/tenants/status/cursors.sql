-- Reads the distinct progress of the cursors of all serving generations. No binds.
select distinct c.progress::text
from sandmill.cursors c
join sandmill.generations g using (processor, generation)
where g.state = 'serving'
