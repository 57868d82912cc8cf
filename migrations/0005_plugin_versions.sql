-- Plugins and their history, as `sandmill plugins` shows them: which version runs, which ran
-- before, and which files were rejected.
--
-- On startup, a host decides by its plugins folder what to run. Of these tables, only
-- `plugin_holds` counts: a version that was rolled back does not run again.

-- The files of the plugins folder, and what the host runs for each.
create table sandmill.plugins (
  -- The file's name without its extension, below a tenant's folder with `TENANT/` before it.
  plugin text collate "C" primary key,
  -- The processor that runs. Empty: none.
  processor text collate "C" not null default '',
  -- SHA-256 of the file that runs, in hexadecimal.
  digest text not null default '',
  -- The author's version of it.
  version text not null default '',
  -- The version of the contract (WIT package) that it implements.
  contract text not null default '',
  -- When this version began to run.
  since timestamptz not null default now(),
  -- Number of calls in progress at the last report.
  lanes bigint not null default 0,
  -- SHA-256 of a file that was found and rejected. Empty: none.
  refused_digest text not null default '',
  -- Why it was rejected. Empty: no file was.
  refused text not null default '',
  -- When it was rejected.
  refused_at timestamptz,
  check ((refused = '') = (refused_at is null))
);

-- The history of plugins, in order.
create table sandmill.plugin_versions (
  -- Number in the order of the history.
  id bigint generated always as identity primary key,
  -- The plugin, as in `plugins`.
  plugin text collate "C" not null,
  -- Its processor. Empty if unknown.
  processor text collate "C" not null default '',
  -- SHA-256 of the file, in hexadecimal.
  digest text not null,
  -- The author's version.
  version text not null default '',
  -- What happened to the version:
  -- * started: its processor began with it.
  -- * swapped: it replaced another version while the processor ran.
  -- * restarted: its processor ended and began again with it.
  -- * rolled-back: it replaced its successor.
  -- * renamed: its file has another name.
  -- * stopped: its processor ended.
  -- * refused: its file was rejected.
  event text not null check (event in ('started', 'swapped', 'restarted', 'rolled-back', 'renamed', 'stopped', 'refused')),
  -- Why, if there was a reason other than the file itself.
  reason text not null default '',
  -- When.
  at timestamptz not null default now(),
  -- SHA-256 of the version that it replaced. Empty: none.
  replaced text not null default '',
  -- Position of the last event that the replaced version had handled then.
  replaced_last bigint,
  -- Position of the first event that this version handled. Filled in later.
  first bigint,
  -- Milliseconds between the swap and the call that handled that event. Filled in later.
  gap_ms double precision,
  check (event not in ('swapped', 'rolled-back') or replaced <> ''),
  check (event <> 'refused' or reason <> '')
);
create index on sandmill.plugin_versions (plugin, id);

-- Versions that an operator or the host rolled back. They do not run again while they have a row
-- here.
create table sandmill.plugin_holds (
  -- The plugin, as in `plugins`.
  plugin text collate "C" not null,
  -- SHA-256 of the version's file, in hexadecimal.
  digest text not null,
  -- Why it was rolled back.
  reason text not null check (reason <> ''),
  -- When.
  since timestamptz not null default now(),
  primary key (plugin, digest)
);

-- A plugin in a tenant's folder is a processor of its own, for that tenant alone. Its id is made of
-- the plugin's id and the tenant. The processors that several tenants have of one plugin are a
-- family. They share their collections, and each writes its own tenant's documents.
alter table sandmill.processors
  -- The id that the plugin gives itself.
  add column family text collate "C" not null default '',
  -- The tenant that owns the processor. Empty: shared by all tenants.
  add column tenant text collate "C" not null default '';
update sandmill.processors set family = id;
