//! A client of a Sandmill event store: appends events to streams and reads streams.
//!
//! An application uses it with its own `tokio-postgres` client; no Sandmill host needs to run. Both
//! functions accept a client or a transaction, so an event can be stored together with the
//! application's own rows. The database enforces all rules: [`append`] is a typed form of
//! `select * from sandmill.append(…)`.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sandmill_client::{Append, AppendError, ExpectedVersion, NewEvent, append, read_stream};
//!
//! let (mut client, connection) =
//!     tokio_postgres::connect("postgresql://localhost/shop", tokio_postgres::NoTls).await?;
//! tokio::spawn(connection);
//!
//! // The append below depends on these events. It fails if another event was appended since.
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
//!
//! With the feature `connect`, the module `connect` opens connections like libpq, with TLS.
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

/// The tenant for applications without tenants.
pub const DEFAULT_TENANT: &str = "default";

/// Appends events to the end of a stream, all or none, and returns one entry per event, in order.
///
/// In a transaction, the events become visible to other sessions when it commits.
///
/// # Errors
///
/// [`AppendError`], by what the caller does next. A transaction in which a statement failed must be
/// rolled back, as always in PostgreSQL.
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

/// The values of an optional part, one per event; `None` if no event has it, so that the database
/// uses its default.
fn given<'a, T>(events: &'a [NewEvent], of: impl Fn(&'a NewEvent) -> Option<T>) -> Option<Vec<Option<T>>> {
    let all: Vec<Option<T>> = events.iter().map(of).collect();
    all.iter().any(Option::is_some).then_some(all)
}

/// Reads at most `limit` events of a stream, in order, from a version on. The first event has
/// version 1. A stream that does not exist has no events.
///
/// # Errors
///
/// The errors of the driver.
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
