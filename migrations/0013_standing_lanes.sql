-- Lanes that stand may be very many, and cost their host nothing: it learns of those that people resume, and of no others.

alter table sandmill.exceptions
  -- Whether somebody let it go on since its host last took note.
  add column resumed boolean not null default false;
create index exceptions_resumed on sandmill.exceptions (processor) where resumed;
