-- The number of handled events, counted in the transaction that handles them. So it always equals
-- what is committed. It is part of the cursor's rows, which every such transaction writes anyway.

alter table sandmill.cursors
  -- Number of events handled. The row of bucket 0 has it for all buckets; a processor's number is
  -- the sum of its rows.
  add column handled bigint not null default 0 check (handled >= 0);
update sandmill.cursors c set handled = p.handled from sandmill.processors p where p.id = c.processor and c.bucket = 0;
alter table sandmill.processors drop column handled;
