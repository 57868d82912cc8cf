-- Records the error that ended a processor's last term.
--
-- $1 text         processor
-- $2 text         error
-- $3 timestamptz  when the first of the consecutive failed terms ended
-- $4 timestamptz  when the last one ended
-- $5 bigint       number of consecutive failed terms
update sandmill.processors set term_error = $2, term_error_since = $3, term_error_at = $4, term_errors = $5 where id = $1
