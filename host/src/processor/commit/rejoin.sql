-- Deletes the checkpoints of lanes that have reached the cursor, so that it covers them again.
-- Fails the transaction if one of them has moved. The caller moves or checks the cursor, under the
-- fence, in the same transaction.
--
-- $1 text     processor
-- $2 integer  generation
-- Arrays of one length:
-- $3 text[]   tenants
-- $4 text[]   lane keys
-- $5 text[]   progress before
with gone as (
  delete from sandmill.lane_checkpoints e
  using unnest($3::text[], $4::text[], $5::text[]) as given (tenant, lane_key, before)
  where e.processor = $1 and e.generation = $2 and e.tenant = given.tenant and e.lane_key = given.lane_key
    and e.progress::text = given.before
  returning 1
)
select sandmill.must_change('let lanes of ' || $1 || ' rejoin', cardinality($3), (select count(*) from gone))
