-- Clears the recorded error of a processor. Writes nothing if there is none.
--
-- $1 text  processor
update sandmill.processors set term_error = '', term_error_since = null, term_error_at = null, term_errors = 0 where id = $1 and term_error <> ''
