-- Adds the usage of tenants to their sums.
--
-- $1  float8         seconds in which they used it
-- Arrays of one length:
-- $2  text[]         tenants
-- $3  float8[]       CPU time, seconds
-- $4  float8[]       waiting time, seconds
-- $5  float8[]       throttled time, seconds
-- $6  int8[]         events
-- $7  int8[]         documents
-- $8  int8[]         bytes
-- $9  int8[]         failures
-- $10 text[]         processor of the last failure, or null
-- $11 text[]         reason of the last failure, or null
-- $12 timestamptz[]  time of the last failure, or null
-- $13 int8[]         refusals
-- $14 text[]         last refusal, or null
insert into sandmill.tenant_usage as sums (
  tenant, cpu_seconds, waited_seconds, throttled_seconds, events, documents, bytes, failures,
  error_processor, error, error_at, refusals, refused, lately_cpu, lately_waited, lately_throttled, lately_events
)
select
  tenant, cpu, waited, throttled, events, documents, bytes, failures, processor, reason, failed_at, refusals, refused,
  cpu / greatest($1::float8, 0.1), waited / greatest($1::float8, 0.1), throttled / greatest($1::float8, 0.1), events / greatest($1::float8, 0.1)
from unnest(
  $2::text[], $3::float8[], $4::float8[], $5::float8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[],
  $10::text[], $11::text[], $12::timestamptz[], $13::int8[], $14::text[]
) as used (tenant, cpu, waited, throttled, events, documents, bytes, failures, processor, reason, failed_at, refusals, refused)
order by tenant
on conflict (tenant) do update set
  cpu_seconds = sums.cpu_seconds + excluded.cpu_seconds,
  waited_seconds = sums.waited_seconds + excluded.waited_seconds,
  throttled_seconds = sums.throttled_seconds + excluded.throttled_seconds,
  events = sums.events + excluded.events,
  documents = sums.documents + excluded.documents,
  bytes = sums.bytes + excluded.bytes,
  failures = sums.failures + excluded.failures,
  error_processor = coalesce(excluded.error_processor, sums.error_processor),
  error = coalesce(excluded.error, sums.error),
  error_at = coalesce(excluded.error_at, sums.error_at),
  refusals = sums.refusals + excluded.refusals,
  refused = coalesce(excluded.refused, sums.refused),
  lately_cpu = excluded.lately_cpu,
  lately_waited = excluded.lately_waited,
  lately_throttled = excluded.lately_throttled,
  lately_events = excluded.lately_events,
  updated_at = now()
