-- Records how fast a processor runs, for `sandmill status`.
--
-- $1 text              processor
-- $2 double precision  events per second
-- $3 text              measures, as JSON
update sandmill.processors set rate = $2, measures = $3::text::json, reported_at = now() where id = $1
