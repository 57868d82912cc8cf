-- Moves the cursor of a share to the next progress, or keeps it where it is, and adds up what the
-- commit counts. Stores a report if one is due. Fails the transaction if another term has taken the
-- fence or the cursor has moved. Locks the row until the transaction ends.
--
-- $1  text              processor
-- $2  integer           generation
-- $3  smallint          share
-- $4  text              fencing token
-- $5  text              progress before
-- $6  text              progress after
-- $7  bigint            number of events handled
-- $8  bigint            number of events shed
-- $9  bigint            number of set-aside events that were discarded
-- $10 double precision  events per second; null = no report is due
-- $11 text              measures, as JSON; null = no report is due
with moved as (
  update sandmill.cursors
  set progress = $6::text, handled = handled + $7, shed_events = shed_events + $8, discarded = discarded + $9, rate = coalesce($10, rate),
      measures = coalesce($11::text::json, measures), reported_at = case when $10 is null then reported_at else now() end
  where processor = $1 and generation = $2 and share = $3 and fence = $4 and progress::text = $5::text
  returning 1
)
select sandmill.must_change('move cursor of ' || $1, 1, (select count(*) from moved))
