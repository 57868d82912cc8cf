-- Dead letters that explain themselves: the event's stream, the guest's backtrace and last log
-- lines, and the last time at which the event was set aside.
--
-- A letter named its event only by position and id. Once the event was deleted, no row showed
-- which stream it belonged to. And the message of a trap says what went wrong, but seldom where.
--
-- `dead_since` becomes `first_at`, beside `last_at`. Letters that exist get stream and version from
-- their events, and their first time as the last one, because no later one is known.
alter table sandmill.dead_letters rename column dead_since to first_at;
alter table sandmill.dead_letters
  -- When it was last set aside. `first_at` is when that happened first.
  add column last_at timestamptz not null default now(),
  -- The event's stream; null in letters from before this column whose event was gone.
  add column stream text collate "C",
  -- The event's version in its stream; null with `stream`.
  add column stream_version bigint,
  -- The functions of the plugin that were running when the last attempt failed, the innermost first,
  -- one a line, at most 4 KiB. Empty if none was running.
  add column backtrace text not null default '',
  -- The last lines that the plugin logged or printed during that attempt, at most 4 KiB.
  add column log_tail text not null default '';
update sandmill.dead_letters set last_at = first_at;
update sandmill.dead_letters d set stream = e.stream, stream_version = e.version
from sandmill.events e
where e.position = d.position and e.tenant = d.tenant and e.id = d.event_id;
