-- Entries of the plugins folder that are not run though somebody may have meant them to be: what `sandmill plugins` shows beside the plugins.

-- What the host found when it looked last; an entry that is mended or removed has no row.
create table sandmill.folder_problems (
  -- Where it is in the folder, in printable characters; `.` is the folder itself.
  path text collate "C" primary key,
  problem text not null check (problem <> ''),
  -- What to do.
  remedy text not null check (remedy <> ''),
  since timestamptz not null default now()
);
