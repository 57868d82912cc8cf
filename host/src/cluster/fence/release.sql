-- Records that no host runs a processor any more.
-- $1 processor text · $2 fence of its last term text
update sandmill.processors p set session = null, session_since = null
where p.id = $1 and exists (select from sandmill.cursors c where c.processor = p.id and c.fence = $2)
