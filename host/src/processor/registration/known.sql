-- Reads how a processor's documents were built: event types, partitioning, read-model version.
--
-- $1 text  processor
select event_types, partition_by, read_model_version from sandmill.processors where id = $1
