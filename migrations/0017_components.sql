-- The bytes of plugins' versions, so that a start or a rollback can go back to a version whose file
-- is gone, on a machine that has never compiled it.

-- A component, once for all plugins that are it. Rows that no retained version refers to are
-- removed by the host.
create table sandmill.components (
  -- SHA-256 of the bytes, lower-case hexadecimal. Hosts compute it again before they use them.
  digest text collate "C" primary key check (digest ~ '^[0-9a-f]{64}$'),
  bytes bytea not null,
  stored_at timestamptz not null default now()
);
-- A component is up to some tens of MiB of machine-like code: compressing it again and again costs
-- seconds of CPU and saves little.
alter table sandmill.components alter column bytes set storage external;

-- The versions that a plugin can go back to: the one that runs, and those that ran before it,
-- `rollout.retained-versions` in all. Bytes are found through these rows alone, so no plugin
-- reaches what only another one has run. They go with their plugin.
create table sandmill.retained_versions (
  plugin text collate "C" not null references sandmill.plugins on delete cascade,
  digest text collate "C" not null references sandmill.components,
  -- The signature that the file had, in hexadecimal, and the public key that it is of; empty where
  -- none was asked for. Hosts check it again.
  signature text not null default '',
  signed_by text not null default '',
  -- When it began to run the last time.
  ran_at timestamptz not null default clock_timestamp(),
  primary key (plugin, digest)
);
create index on sandmill.retained_versions (digest);
