//! Appends events to a Sandmill event store and reads them back.
//!
//! An application links this crate beside its own `tokio-postgres` client; the host that processes the events is not needed for
//! that. Both functions work on a client or inside the caller's transaction, so that an event can be stored together with
//! whatever else the application writes. All rules are the database's: this crate is a typed way to say
//! `select * from sandmill.append(…)`, and what it appends follows every other application's appends.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sandmill_client::{Append, AppendError, ExpectedVersion, NewEvent, append, read_stream};
//!
//! let (mut client, connection) =
//!     tokio_postgres::connect("postgresql://localhost/shop", tokio_postgres::NoTls).await?;
//! tokio::spawn(connection);
//!
//! // What is decided from the events so far must not be stored when somebody else was quicker.
//! let so_far = read_stream(&client, "acme", "cart-1", 1, 1000).await?;
//! let expected = so_far.last().map_or(ExpectedVersion::NoStream, |last| ExpectedVersion::Exactly(last.version));
//!
//! let transaction = client.transaction().await?;
//! let items = Append::to("acme", "cart-1")
//!     .expecting(expected)
//!     .event(NewEvent::new("ItemAdded", r#"{"sku":"x","quantity":2}"#).metadata(r#"{"user":"ann"}"#));
//! match append(&transaction, &items).await {
//!     Ok(appended) => {
//!         transaction.commit().await?;
//!         println!("the cart is at version {}", appended[0].version);
//!     }
//!     Err(AppendError::Conflict { actual, .. }) => println!("read again from version {actual} on"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

pub mod check;
#[cfg(feature = "connect")]
pub mod connect;
mod error;
mod event;

use std::time::SystemTime;

pub use error::AppendError;
pub use event::{Append, Appended, ExpectedVersion, NewEvent, RecordedEvent};
use tokio_postgres::{GenericClient, types::Type};

/// The tenant of an application that knows no tenants.
pub const DEFAULT_TENANT: &str = "default";

/// Appends the events to the end of their stream, all of them or none, and returns one entry for each.
///
/// Inside a transaction of the caller's, an error makes that transaction unusable, as any failed statement does, and the events
/// are there for others once it commits.
pub async fn append(client: &impl GenericClient, append: &Append) -> Result<Vec<Appended>, AppendError> {
    append.check().map_err(AppendError::Invalid)?;
    let types: Vec<&str> = append.events.iter().map(|event| event.event_type.as_str()).collect();
    let data: Vec<&str> = append.events.iter().map(|event| event.data.as_str()).collect();
    let metadata = given(&append.events, |event| event.metadata.as_deref());
    let ids = given(&append.events, |event| event.id.as_deref());
    let recorded_at: Option<Vec<Option<SystemTime>>> = given(&append.events, |event| event.recorded_at);
    let rows = client
        .query_typed(
            include_str!("append.sql"),
            &[
                (&append.tenant, Type::TEXT),
                (&append.stream, Type::TEXT),
                (&types, Type::TEXT_ARRAY),
                (&data, Type::TEXT_ARRAY),
                (&append.expected.as_number(), Type::INT8),
                (&metadata, Type::TEXT_ARRAY),
                (&ids, Type::TEXT_ARRAY),
                (&recorded_at, Type::TIMESTAMPTZ_ARRAY),
            ],
        )
        .await
        .map_err(|error| AppendError::from_database(error, append))?;
    Ok(rows
        .iter()
        .map(|row| Appended {
            id: row.get(0),
            version: row.get::<_, i64>(1) as u64,
            position: row.get::<_, i64>(2) as u64,
        })
        .collect())
}

/// What each event has of something optional; nothing when none has it, so that the database's default costs nothing.
fn given<'a, T>(events: &'a [NewEvent], of: impl Fn(&'a NewEvent) -> Option<T>) -> Option<Vec<Option<T>>> {
    let all: Vec<Option<T>> = events.iter().map(of).collect();
    all.iter().any(Option::is_some).then_some(all)
}

/// Reads the events of a stream in order, from a version on (the first is 1), `limit` at most.
pub async fn read_stream(
    client: &impl GenericClient,
    tenant: &str,
    stream: &str,
    from_version: u64,
    limit: u64,
) -> Result<Vec<RecordedEvent>, tokio_postgres::Error> {
    let bounded = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let rows = client
        .query_typed(
            include_str!("read_stream.sql"),
            &[
                (&tenant, Type::TEXT),
                (&stream, Type::TEXT),
                (&bounded(from_version), Type::INT8),
                (&bounded(limit), Type::INT8),
            ],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| RecordedEvent {
            position: row.get::<_, i64>(0) as u64,
            version: row.get::<_, i64>(1) as u64,
            event_type: row.get(2),
            id: row.get(3),
            recorded_at: row.get(4),
            data: row.get(5),
            metadata: row.get(6),
        })
        .collect())
}
