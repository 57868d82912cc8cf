-- Says whether a session commits for a processor, and whether its host's files name it.
-- $1 processor text
select exists (select from sandmill.running_processors where id = $1),
       exists (select from sandmill.plugins where processor = $1 and gone_since is null)
