-- Reads the shares of a processor's serving generation: the generation, and for each share its
-- number, first bucket and last bucket, in the order of buckets.
--
-- $1 text  processor
select c.generation, c.share, c.first_bucket, c.last_bucket
from sandmill.generations g
join sandmill.cursors c using (processor, generation)
where g.processor = $1 and g.state = 'serving'
order by c.first_bucket, c.share
