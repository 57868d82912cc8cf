-- A mark for resumed lanes. Blocked and paused lanes may be very many and must cost their host
-- nothing, so the host reads only the lanes that people resumed.

alter table sandmill.exceptions
  -- Whether the lane was resumed and its host has not noticed yet.
  add column resumed boolean not null default false;
create index exceptions_resumed on sandmill.exceptions (processor) where resumed;
