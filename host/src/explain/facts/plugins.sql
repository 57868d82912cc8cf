-- Reads the files of the plugins folder: the processor that runs for each (empty = none), and why a
-- file was rejected (empty = it was not). No binds.
select plugin, processor, refused from sandmill.plugins where gone_since is null order by plugin
