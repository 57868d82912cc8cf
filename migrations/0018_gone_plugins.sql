-- A plugin whose file is gone is kept for a while with the versions that it can go back to: its
-- file may lie on a volume that is not mounted, and comes back with it.

alter table sandmill.plugins
  -- Since when there is no file of this name; null while there is one. Until then everything else
  -- stays what it was.
  add column gone_since timestamptz;
