-- Deletes dead letters that were handled again or discarded. Fails the transaction if one of them is
-- gone. The caller checks the fence in the same transaction.
--
-- $1 text      processor
-- $2 integer   generation
-- $3 bigint[]  positions
with gone as (
  delete from sandmill.dead_letters where processor = $1 and generation = $2 and position = any($3)
  returning 1
)
select sandmill.must_change('delete dead letters of ' || $1, cardinality($3), (select count(*) from gone))
