-- The error that ended a processor's last term, for people: its host writes it on a session of its own, and clears it once a term goes well.

alter table sandmill.processors
  add column term_error text not null default '' check (octet_length(term_error) <= 1100),
  -- Since when terms have ended in errors, when the last one did, and how many in a row.
  add column term_error_since timestamptz,
  add column term_error_at timestamptz,
  add column term_errors bigint not null default 0,
  add check ((term_error = '') = (term_error_since is null) and (term_error = '') = (term_error_at is null));
