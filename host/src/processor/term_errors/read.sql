-- Reads since when a processor's terms have ended with errors, null if they have not, and how many
-- have.
-- $1 processor text
select term_error_since, term_errors from sandmill.processors where id = $1
