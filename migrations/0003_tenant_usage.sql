-- Usage per tenant: what each tenant costs, and why it waits.
--
-- Hosts add to the sums every two seconds, for tenants that used something since. The sums are for
-- people: a killed host loses up to two seconds of them, and no decision of a host depends on them.

-- Sums of usage, one row per tenant.
create table sandmill.tenant_usage (
  -- The tenant.
  tenant text collate "C" primary key,
  -- CPU time of its plugins' calls.
  cpu_seconds double precision not null default 0,
  -- Time in which its plugins were ready to run and others ran instead.
  waited_seconds double precision not null default 0,
  -- Time for which its rate limits delayed it.
  throttled_seconds double precision not null default 0,
  -- Events handled, counted once per processor.
  events bigint not null default 0,
  -- Documents written.
  documents bigint not null default 0,
  -- Bytes of documents and dead letters written.
  bytes bigint not null default 0,
  -- How often one of its lanes stopped.
  failures bigint not null default 0,
  -- The processor of the last failure.
  error_processor text,
  -- The reason of the last failure.
  error text,
  -- When the last failure happened.
  error_at timestamptz,
  -- Number of refusals of its plugins by the sandbox, whether the call failed or not.
  refusals bigint not null default 0,
  -- What was refused last.
  refused text,
  -- Recent CPU seconds per second. All four `lately` columns are averages between the last two
  -- additions, and stale once `updated_at` is some seconds old.
  lately_cpu double precision not null default 0,
  -- Recent seconds of waiting per second.
  lately_waited double precision not null default 0,
  -- Recent seconds of throttling per second.
  lately_throttled double precision not null default 0,
  -- Recent events per second.
  lately_events double precision not null default 0,
  -- When the sums began.
  since timestamptz not null default now(),
  -- When they were last added to.
  updated_at timestamptz not null default now()
) with (fillfactor = 70);
