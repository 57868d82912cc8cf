-- Ends a processor's hold on its collections; their documents stay.
-- $1 processor text
update sandmill.collections set processor = null, kept_from = $1 where processor = $1
