-- Events handled are counted in the transaction that handles them, so that the count never differs from what is committed. It stands in the cursor's rows, which every such
-- transaction writes anyway.

alter table sandmill.cursors
  -- In the first bucket for all of them; a processor's count is the sum.
  add column handled bigint not null default 0 check (handled >= 0);
update sandmill.cursors c set handled = p.handled from sandmill.processors p where p.id = c.processor and c.bucket = 0;
alter table sandmill.processors drop column handled;
