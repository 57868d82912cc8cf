//! The event store on a real server: migrations, appending, importing and listing.

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
