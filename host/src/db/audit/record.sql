-- Writes a row of the audit log.
--
-- $1 text  who
-- $2 text  command
-- $3 text  processor; empty = none
-- $4 text  tenant; empty = no single one
-- $5 text  lane key; empty = no single one
-- $6 text  details, as a JSON object
insert into sandmill.audit (who, command, processor, tenant, lane_key, details) values ($1, $2, $3, $4, $5, $6::text::json)
