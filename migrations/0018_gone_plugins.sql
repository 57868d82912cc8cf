-- Plugins whose file is gone. A plugin is kept for a while with the versions that it can go back
-- to: its file may be on a volume that is not mounted at the moment.

alter table sandmill.plugins
  -- When its file was found missing. Null: the file exists. The row keeps what ran last.
  add column gone_since timestamptz;
