-- Forgets plugins whose files have been gone for so long, with all that they could go back to.
-- $1 days integer
delete from sandmill.plugins where gone_since < now() - make_interval(days => $1)
