-- Stores the bytes of a component, unless they are there already.
-- $1 digest text · $2 bytes bytea
insert into sandmill.components (digest, bytes) values ($1, $2) on conflict do nothing
