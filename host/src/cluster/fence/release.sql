-- Records that no host runs a processor any longer, unless a later term has begun.
--
-- $1 text  processor
-- $2 text  fencing token of its last term
update sandmill.processors p set session = null, session_since = null
where p.id = $1 and exists (select from sandmill.cursors c where c.processor = p.id and c.fence = $2)
