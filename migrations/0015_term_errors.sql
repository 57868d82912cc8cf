-- The error that ended a processor's last term, for people. The host writes it in a session of its
-- own and clears it once a term works.

alter table sandmill.processors
  -- The error. Empty: the last term did not end in an error.
  add column term_error text not null default '' check (octet_length(term_error) <= 1100),
  -- When the first of the consecutive terms that ended in errors did so.
  add column term_error_since timestamptz,
  -- When the last term ended in an error.
  add column term_error_at timestamptz,
  -- Number of consecutive terms that ended in errors.
  add column term_errors bigint not null default 0,
  add check ((term_error = '') = (term_error_since is null) and (term_error = '') = (term_error_at is null));
