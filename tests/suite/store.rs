//! The event store on a real server: migrations, appending, importing and listing.

mod appending;
mod importing;
mod listing;
mod migrations;
mod ordering;
mod tally;
