-- Says for people how far a processor has come.
-- $1 processor text · $2 events handled since the last report bigint · $3 events a second double precision · $4 measures json as text
update sandmill.processors set handled = handled + $2, rate = $3, measures = $4::text::json, reported_at = now() where id = $1
