-- Pauses a processor, one tenant of it, or one lane. Changes nothing if it is paused already.
--
-- $1 text  processor
-- $2 text  tenant; empty = all
-- $3 text  lane key; empty = all
insert into sandmill.pauses (processor, tenant, lane_key) values ($1, $2, $3) on conflict do nothing
