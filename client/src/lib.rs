//! Appends events to a Sandmill event store and reads them back.
