-- Says what ended a processor's last term.
-- $1 processor text · $2 error text · $3 since when terms end so timestamptz · $4 when the last one did timestamptz · $5 how many in a row bigint
update sandmill.processors set term_error = $2, term_error_since = $3, term_error_at = $4, term_errors = $5 where id = $1
