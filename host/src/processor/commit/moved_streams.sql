-- Updates the waiting events of parked streams, and deletes the rows of streams without any. Fails
-- the transaction if one of them is gone. The caller checks the fence in the same transaction.
--
-- $1 text       processor
-- $2 integer    generation
-- Arrays of one length:
-- $3 text[]     tenants
-- $4 text[]     streams
-- $5 bigint[]   versions of the first waiting events
-- $6 bigint[]   versions of the last waiting events
-- $7 bigint[]   numbers of waiting events; 0 = the stream is no longer parked
-- $8 boolean[]  whether an operator's request is answered
with given as (
  select * from unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::boolean[])
  as given (tenant, stream, next_version, last_version, events, answers)
),
gone as (
  delete from sandmill.parked_streams p using given
  where p.processor = $1 and p.generation = $2 and p.tenant = given.tenant and p.stream = given.stream and given.events = 0
  returning 1
),
moved as (
  update sandmill.parked_streams p
  set next_version = given.next_version, last_version = given.last_version, events = given.events,
      request = case when given.answers then '' else p.request end, request_new = p.request_new and not given.answers
  from given
  where p.processor = $1 and p.generation = $2 and p.tenant = given.tenant and p.stream = given.stream and given.events > 0
  returning 1
)
select sandmill.must_change('move parked streams of ' || $1, cardinality($3),
  (select count(*) from gone) + (select count(*) from moved))
