-- Back-pressure: what processors shed, and why a processor reads nothing.
--
-- Shed events are in no document and no dead letter. So they are counted in the transaction whose
-- progress passes them: every event is handled, set aside or shed.

alter table sandmill.processors
  -- Number of events shed: the sum of its rows in `sheds`, kept to avoid adding them up.
  add column skipped bigint not null default 0 check (skipped >= 0),
  -- Why it reads nothing although the log has more. Empty while it reads. For people.
  add column held text not null default '',
  -- Since when `held` has its value.
  add column held_since timestamptz not null default now();

-- Jumps of lanes to the head of the log, each with the exact number of events that it left out.
create table sandmill.sheds (
  -- Number in the order of the jumps.
  id bigint generated always as identity primary key,
  -- The processor.
  processor text collate "C" not null references sandmill.processors on delete cascade,
  -- The lane's tenant.
  tenant text collate "C" not null,
  -- The lane's partition key.
  lane_key text collate "C" not null,
  -- Progress before the jump.
  from_progress sandmill.progress not null,
  -- Progress after the jump.
  to_progress sandmill.progress not null,
  -- Number of events left out.
  events bigint not null check (events >= 0),
  -- When it jumped.
  shed_at timestamptz not null default now()
);

-- For the last jumps of a processor or of one of its lanes.
create index on sandmill.sheds (processor, id);
