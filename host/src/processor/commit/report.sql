-- Says for people how fast a processor goes.
-- $1 processor text · $2 events a second double precision · $3 measures json as text
update sandmill.processors set rate = $2, measures = $3::text::json, reported_at = now() where id = $1
