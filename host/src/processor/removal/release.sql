-- Separates the collections of a processor from it. Their documents are kept.
--
-- $1 text  processor
update sandmill.collections set processor = null, kept_from = $1 where processor = $1
