-- Reads what the host has recorded of each file in its plugins folder: the processor that it runs,
-- empty if none, and the reason if it was refused.
select plugin, processor, refused from sandmill.plugins where gone_since is null order by plugin
