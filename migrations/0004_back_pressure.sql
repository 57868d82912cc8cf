-- What came of the way a processor treats lanes that cannot keep up. Events that it skipped on purpose are in no document and no dead
-- letter, so they are counted here in the transaction whose progress passes them: events handled, set aside and skipped are together
-- all there were. And a processor that reads nothing although there is more says why.

alter table sandmill.processors
  -- Events that it skipped in all: the sum of its rows in `sheds`, kept so that nobody has to add them up.
  add column skipped bigint not null default 0 check (skipped >= 0),
  -- Why it reads nothing now; empty while it does. For people.
  add column held text not null default '',
  add column held_since timestamptz not null default now();

-- Each time that a lane went on without events of its own: behind which progress, up to which, and how many there were, exactly.
create table sandmill.sheds (
  id bigint generated always as identity primary key,
  processor text collate "C" not null references sandmill.processors on delete cascade,
  tenant text collate "C" not null,
  lane_key text collate "C" not null,
  from_progress sandmill.progress not null,
  to_progress sandmill.progress not null,
  events bigint not null check (events >= 0),
  shed_at timestamptz not null default now()
);

-- The last ones of a processor, or of a lane of it.
create index on sandmill.sheds (processor, id);
