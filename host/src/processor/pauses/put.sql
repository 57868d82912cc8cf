-- Tells a processor, a tenant of it or a lane to wait.
-- $1 processor text · $2 tenant text, empty for all · $3 lane key text, empty for all
insert into sandmill.pauses (processor, tenant, lane_key) values ($1, $2, $3) on conflict do nothing
