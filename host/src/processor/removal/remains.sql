-- Counts what the database keeps of a processor besides its documents: whether it has a row, and
-- the numbers of dead letters, lane checkpoints, pauses, records of shed events and parked streams.
--
-- $1 text  processor
select exists (select from sandmill.processors where id = $1),
       (select count(*) from sandmill.dead_letters where processor = $1),
       (select count(*) from sandmill.lane_checkpoints where processor = $1),
       (select count(*) from sandmill.pauses where processor = $1),
       (select count(*) from sandmill.sheds where processor = $1),
       (select count(*) from sandmill.parked_streams where processor = $1)
