-- What is known of a version before and after it took over, and what a start falls back to.

alter table sandmill.plugin_versions
  -- The public key that the file is signed with, if one was asked for.
  add column signed_by text not null default '',
  -- Of a version that was tried on events which were handled already, before it took over or instead of it: what came of it.
  add column dry_run jsonb,
  -- Of a swap, while another one has not followed and for some seconds: the lanes that have come over, and the longest that one of them waited for its first answer
  -- from this version, from when its events were ready.
  add column lanes bigint,
  add column longest_ms double precision;

alter table sandmill.plugins
  -- The public key that the file which runs is signed with, if one was asked for.
  add column signed_by text not null default '';
