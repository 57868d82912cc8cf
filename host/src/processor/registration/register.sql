-- Registers a processor, or says that it runs again; false where its documents were built by other means than the plugin's.
-- $1 id text · $2 plugin text · $3 digest text · $4 version text · $5 event types text[] or null · $6 partition by text · $7 read-model version int · $8 whether
-- documents built of other event types or by another read-model version are gone on with boolean · $9 the id that the plugin gives itself text · $10 whose it is text, empty for
-- everybody's · $11 where it begins text, null for now · $12 buckets int · $13 collections text[]
select sandmill.register($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
