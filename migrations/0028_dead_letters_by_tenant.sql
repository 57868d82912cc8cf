-- An index for the dead letters of one tenant.
--
-- `sandmill dead-letters list --tenant T` reads a tenant's letters by position, and an operator who
-- erases a tenant deletes them. The primary key begins with the processor, so both read the letters
-- of all tenants. Nothing bounds the number of letters: a plugin may skip every event.
--
-- Building the index reads all dead letters. No letter can be stored meanwhile.
create index dead_letters_tenant on sandmill.dead_letters (tenant, processor, generation, position);
