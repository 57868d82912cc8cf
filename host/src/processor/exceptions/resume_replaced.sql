-- Lets blocked lanes of one tenant go on now, and their host know of it: the tenant's own processor
-- replaces this one, so that they wait for that instead of a person.
-- $1 processor text · $2 tenant text
update sandmill.exceptions set state = 'catching-up', since = now(), resumed = true
where processor = $1 and tenant = $2 and state = 'blocked'
