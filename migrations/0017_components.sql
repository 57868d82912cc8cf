-- The bytes of plugins' versions. So a start or a rollback can run a version whose file is gone, on
-- a machine that never compiled it.

-- Components (Wasm files), each stored once for all plugins. The host removes rows that no retained
-- version refers to.
create table sandmill.components (
  -- SHA-256 of the bytes, in lower-case hexadecimal. A host computes it again before it uses them.
  digest text collate "C" primary key check (digest ~ '^[0-9a-f]{64}$'),
  -- The component.
  bytes bytea not null,
  -- When it was stored.
  stored_at timestamptz not null default now()
);
-- A component has up to some tens of MiB of machine-like code. Compressing it costs seconds of CPU
-- at every write and saves little.
alter table sandmill.components alter column bytes set storage external;

-- The versions that a plugin can go back to: the running one and those before it,
-- `rollout.retained-versions` in total. Bytes are found through these rows only, so a plugin cannot
-- reach a version that only another plugin has run. Rows are deleted with their plugin.
create table sandmill.retained_versions (
  -- The plugin, as in `plugins`.
  plugin text collate "C" not null references sandmill.plugins on delete cascade,
  -- The version's component.
  digest text collate "C" not null references sandmill.components,
  -- The file's signature, in hexadecimal, and the public key that it belongs to. Empty if no
  -- signature was required. A host verifies it again.
  signature text not null default '',
  signed_by text not null default '',
  -- When it last began to run.
  ran_at timestamptz not null default clock_timestamp(),
  primary key (plugin, digest)
);
create index on sandmill.retained_versions (digest);
