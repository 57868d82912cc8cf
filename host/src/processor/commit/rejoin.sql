-- Lets lanes join the tail again: their lane checkpoints go, each if it stands where it was read; fails the transaction otherwise. Whoever sends it
-- moves or checks the cursor, under the fence, in the same transaction.
-- $1 processor text · arrays of one length: $2 tenants text[] · $3 keys text[] · $4 progress before text[]
with gone as (
  delete from sandmill.lane_checkpoints e
  using unnest($2::text[], $3::text[], $4::text[]) as given (tenant, lane_key, before)
  where e.processor = $1 and e.tenant = given.tenant and e.lane_key = given.lane_key and e.progress::text = given.before
  returning 1
)
select sandmill.must_change('let lanes of ' || $1 || ' rejoin', cardinality($2), (select count(*) from gone))
