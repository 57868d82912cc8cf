-- Stores the bytes of a component, unless they are stored already.
--
-- $1 text   digest
-- $2 bytea  bytes
insert into sandmill.components (digest, bytes) values ($1, $2) on conflict do nothing
