//! The event store on a real server: migrations, appending, importing and reading.

mod migrations;
