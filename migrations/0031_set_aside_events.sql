-- Requests about events that were set aside, and parked streams.
--
-- A dead letter can be handled again or discarded, and a lane can continue after the event before
-- which it stopped. Commands write such requests into the rows; the host that owns the lane carries
-- them out under its fence, and changes the row in the transaction that commits the results. A
-- letter that is handled again is deleted. So each event of a processor is counted once: it was
-- handled, discarded or shed, or it is a dead letter or waits in a parked stream.

-- Dead letters no longer count as handled, so that the numbers add up.
alter table sandmill.dead_letters
  -- What an operator wants done with the letter:
  -- * retry: its event is handled again; the letter is deleted if that succeeds.
  -- * discard: the letter is deleted.
  -- * empty: nothing.
  add column request text not null default '' check (request in ('', 'retry', 'discard')),
  -- Whether the host has not noticed the request yet.
  add column request_new boolean not null default false check (request <> '' or not request_new);
create index dead_letters_requested on sandmill.dead_letters (processor, generation, position) where request <> '';
create index dead_letters_request_new on sandmill.dead_letters (processor, generation) where request_new;

alter table sandmill.cursors
  -- Number of events discarded: dead letters and events of parked streams.
  add column discarded bigint not null default 0 check (discarded >= 0);
update sandmill.cursors c set handled = greatest(c.handled - letters.number, 0)
from (select processor, generation, count(*) as number from sandmill.dead_letters group by processor, generation) letters
where c.processor = letters.processor and c.generation = letters.generation;

alter table sandmill.lane_checkpoints
  -- Position of an event that the lane sets aside as a dead letter when it reaches it, with `class`
  -- and `reason`; null if there is none.
  add column skip_position bigint;

-- Streams whose events wait in order behind one that failed. The events stay in the log.
create table sandmill.parked_streams (
  -- The processor.
  processor text collate "C" not null,
  -- The generation.
  generation integer not null,
  -- The tenant.
  tenant text collate "C" not null,
  -- The stream.
  stream text collate "C" not null,
  -- The lane that handles the stream.
  lane_key text collate "C" not null,
  -- Version of the first event that waits: the one that failed.
  next_version bigint not null check (next_version > 0),
  -- Version of the last event that waits.
  last_version bigint not null check (last_version >= next_version),
  -- Number of events that wait.
  events bigint not null check (events > 0),
  -- Position of the event that failed last. The events before it may have been handled since.
  position bigint not null,
  -- Its id.
  event_id text collate "C" not null,
  -- Kind of its failure.
  class text not null,
  -- The failure, for people.
  message text not null,
  -- Number of attempts at it.
  attempts integer not null,
  -- The version of the code that failed, as SHA-256.
  digest text not null,
  -- Since when the stream is parked.
  since timestamptz not null default now(),
  -- When an event of it failed last.
  failed_at timestamptz not null default now(),
  -- What an operator wants done with the stream:
  -- * drain: its events are handled in order, until one fails.
  -- * discard: the first event is discarded.
  -- * discard-all: all events that wait are discarded.
  -- * empty: nothing.
  request text not null default '' check (request in ('', 'drain', 'discard', 'discard-all')),
  -- Whether the host has not noticed the request yet.
  request_new boolean not null default false check (request <> '' or not request_new),
  primary key (processor, generation, tenant, stream),
  foreign key (processor, generation) references sandmill.generations on delete cascade
);
create index parked_streams_request_new on sandmill.parked_streams (processor, generation) where request_new;
create index parked_streams_tenant on sandmill.parked_streams (tenant, processor, generation);
