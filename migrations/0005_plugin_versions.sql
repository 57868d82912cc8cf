-- Which plugins run, which ran before them, and what became of each file: what `sandmill plugins` shows. Nothing here decides what a host runs at its start,
-- which is what its folder says, but for versions that were rolled back.

-- What a host makes of each file in its plugins folder, by the file's name without its ending.
create table sandmill.plugins (
  plugin text collate "C" primary key,
  -- What runs: empty where nothing does.
  processor text collate "C" not null default '',
  digest text not null default '',
  version text not null default '',
  contract text not null default '',
  since timestamptz not null default now(),
  -- Calls under way, when that was last told.
  lanes bigint not null default 0,
  -- The file that was found and is not run, and why; empty where there is none.
  refused_digest text not null default '',
  refused text not null default '',
  refused_at timestamptz,
  check ((refused = '') = (refused_at is null))
);

-- What happened, in order.
create table sandmill.plugin_versions (
  id bigint generated always as identity primary key,
  plugin text collate "C" not null,
  processor text collate "C" not null default '',
  -- SHA-256 of the file.
  digest text not null,
  version text not null default '',
  event text not null check (event in ('started', 'swapped', 'restarted', 'rolled-back', 'renamed', 'stopped', 'refused')),
  -- Why, where somebody or something had a reason.
  reason text not null default '',
  at timestamptz not null default now(),
  -- Of a swap: the version before it and the last event that one had handled then; the first event that this one handled, and how long after the swap, which
  -- are known later.
  replaced text not null default '',
  replaced_last bigint,
  first bigint,
  gap_ms double precision,
  check (event not in ('swapped', 'rolled-back') or replaced <> ''),
  check (event <> 'refused' or reason <> '')
);
create index on sandmill.plugin_versions (plugin, id);

-- Versions that were taken back, by people or by the host: they are not run again as long as they are here.
create table sandmill.plugin_holds (
  plugin text collate "C" not null,
  digest text not null,
  reason text not null check (reason <> ''),
  since timestamptz not null default now(),
  primary key (plugin, digest)
);

-- A plugin in a tenant's folder is a processor of its own, for that tenant alone: its id is made of the plugin's and the tenant's. Those that one plugin becomes
-- for several tenants are a family, and share their collections, in which each writes its own tenant's documents.
alter table sandmill.processors
  -- The id that the plugin gives itself.
  add column family text collate "C" not null default '',
  -- Whose it is; empty: everybody's.
  add column tenant text collate "C" not null default '';
update sandmill.processors set family = id;
