-- Reads when the first of a processor's consecutive failed terms ended (null = the last term did
-- not fail), and the number of these terms.
--
-- $1 text  processor
select term_error_since, term_errors from sandmill.processors where id = $1
