-- Records the error that ended a processor's last term.
-- $1 processor text · $2 error text · $3 time of the first such end timestamptz
-- $4 time of the last one timestamptz · $5 consecutive terms that ended so bigint
update sandmill.processors set term_error = $2, term_error_since = $3, term_error_at = $4, term_errors = $5 where id = $1
