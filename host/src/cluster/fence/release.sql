-- Records that no host runs a processor any longer, unless a later term of its share has begun.
--
-- $1 text      processor
-- $2 integer   generation
-- $3 smallint  share
-- $4 text      fencing token of the last term
update sandmill.processors p set session = null, session_since = null
where p.id = $1
  and exists (select from sandmill.cursors c where c.processor = p.id and c.generation = $2 and c.share = $3 and c.fence = $4)
