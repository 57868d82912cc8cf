-- Entries of the plugins folder that the host does not run, although they may be meant as
-- plugins. `sandmill plugins` shows them beside the plugins.

-- The problems that the host found when it last read the folder. A corrected or removed entry has
-- no row.
create table sandmill.folder_problems (
  -- The entry's path within the folder, in printable characters. `.` is the folder itself.
  path text collate "C" primary key,
  -- What is wrong.
  problem text not null check (problem <> ''),
  -- What to do.
  remedy text not null check (remedy <> ''),
  -- When it was first found, in these words.
  since timestamptz not null default now()
);
