-- Counts what is kept of a processor beside its documents: whether it has a row, dead letters,
-- lanes behind, pauses, and notes of skipped events.
-- $1 processor text
select exists (select from sandmill.processors where id = $1),
       (select count(*) from sandmill.dead_letters where processor = $1),
       (select count(*) from sandmill.lane_checkpoints where processor = $1),
       (select count(*) from sandmill.pauses where processor = $1),
       (select count(*) from sandmill.sheds where processor = $1)
