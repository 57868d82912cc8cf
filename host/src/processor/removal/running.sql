-- Reads whether a host runs a processor, and whether a file in a host's plugins folder provides it.
--
-- $1 text  processor
select exists (select from sandmill.running_processors where id = $1),
       exists (select from sandmill.plugins where processor = $1 and gone_since is null)
