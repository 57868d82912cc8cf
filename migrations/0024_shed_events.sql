-- Renames `processors.skipped` to `shed_events`: the events that back-pressure dropped. A skip is a
-- plugin's own verdict on an event, which leaves a dead letter.

alter table sandmill.processors rename column skipped to shed_events;
alter table sandmill.processors rename constraint processors_skipped_check to processors_shed_events_check;
