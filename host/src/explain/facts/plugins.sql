-- Reads what the host has recorded of each file in its plugins folder: the processor that it runs, empty where it runs none, and why it does not, if it was refused.
select plugin, processor, refused from sandmill.plugins order by plugin
