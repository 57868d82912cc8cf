-- What each tenant has used, so that people can see who costs what, and why somebody waits.
--
-- Hosts add to the sums every two seconds, for the tenants that used something since. They are for people: a host that is killed
-- takes up to two seconds of them along, and nothing the host decides depends on them.

create table sandmill.tenant_usage (
  tenant text collate "C" primary key,
  cpu_seconds double precision not null default 0,
  -- In which a guest could have computed and others did; in which it was held back by its rates.
  waited_seconds double precision not null default 0,
  throttled_seconds double precision not null default 0,
  -- Handled, by each processor that did.
  events bigint not null default 0,
  documents bigint not null default 0,
  bytes bigint not null default 0,
  failures bigint not null default 0,
  -- The last failure.
  error_processor text,
  error text,
  error_at timestamptz,
  -- What its guests were refused, whether they failed of it or not: how often, and what last.
  refusals bigint not null default 0,
  refused text,
  -- Per second between the last two additions: worth nothing once `updated_at` is some seconds old.
  lately_cpu double precision not null default 0,
  lately_waited double precision not null default 0,
  lately_throttled double precision not null default 0,
  lately_events double precision not null default 0,
  since timestamptz not null default now(),
  updated_at timestamptz not null default now()
) with (fillfactor = 70);
