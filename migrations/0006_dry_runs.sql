-- Results of dry runs and swaps, and the signatures of plugins.

alter table sandmill.plugin_versions
  -- The public key that verified the file's signature. Empty if no signature was required.
  add column signed_by text not null default '',
  -- Result of the dry run: the version was tested on events that were handled already.
  add column dry_run jsonb,
  -- For a swap: number of lanes that moved to this version, counted for some seconds or until the
  -- next swap.
  add column lanes bigint,
  -- The longest time that one of them waited for its first answer, in milliseconds from when its
  -- events were ready.
  add column longest_ms double precision;

alter table sandmill.plugins
  -- The public key that verified the signature of the running file. Empty if none was required.
  add column signed_by text not null default '';
