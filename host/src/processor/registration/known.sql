-- Reads by what a processor's documents were built.
-- $1 id text
select event_types, partition_by, read_model_version from sandmill.processors where id = $1
