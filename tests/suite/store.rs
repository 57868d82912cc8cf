//! The event store on a real server: migrations, appends, imports and listings.

mod appending;
mod ids;
mod importing;
mod interchange;
mod limits;
mod listing;
mod migrations;
mod ordering;
mod refusals;
mod tally;
