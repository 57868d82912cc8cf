-- Registers a processor, or says that it runs again; false where its documents were built by other
-- means than the plugin's. Fails where the id belongs to another tenant, family or kind, or a
-- collection to another processor, and where its tenant has too many.
-- $1 id text · $2 kind text · $3 plugin text · $4 digest text · $5 version text
-- $6 event types text[] or null · $7 partition by text · $8 read-model version int
-- $9 whether it goes on with documents of other event types or another such version boolean
-- $10 the id that the plugin gives itself text · $11 whose it is text, empty for everybody's
-- $12 where it begins text, null for now · $13 buckets int · $14 collections text[]
-- $15 how many collections its tenant may have int
select sandmill.register($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
