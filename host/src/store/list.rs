//! Listings of events by position, for people and for scripts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, TryStreamExt};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    db::{Error, JsonText, Row, Session, types::Type},
    model::{event::Event, time},
};

/// The events to list; by default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of streams with this name.
    pub stream: Option<String>,
    /// Only of this type.
    pub event_type: Option<String>,
}

/// An event in a listing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredEvent {
    /// Its position in the store.
    pub position: i64,
    /// Its tenant.
    pub tenant: String,
    /// Its stream.
    pub stream: String,
    /// Its version in the stream, from 1.
    pub version: i64,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its id.
    pub id: String,
    /// The time when it was recorded.
    #[serde(serialize_with = "rfc3339")]
    pub recorded_at: SystemTime,
    /// Its data, on one line.
    pub data: Box<RawValue>,
    /// Its metadata, on one line.
    pub metadata: Box<RawValue>,
    /// Its size if that exceeds [`LARGEST_LISTED`], as far as it is known. Its data and metadata
    /// were not read then.
    #[serde(skip)]
    pub unread_bytes: Option<u64>,
}

/// Maximum size of data, and of metadata, that a listing reads, in bytes. 64 MiB: twice the highest
/// size limit. A larger event would be in memory several times.
pub const LARGEST_LISTED: u64 = 64 << 20;

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time::format_exactly(*time))
}

impl StoredEvent {
    /// The event of a row of `page.sql`.
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(StoredEvent {
            position: row.try_get(0)?,
            tenant: row.try_get(1)?,
            stream: row.try_get(2)?,
            version: row.try_get(3)?,
            event_type: row.try_get(4)?,
            id: row.try_get(5)?,
            recorded_at: row.try_get(6)?,
            data: row.try_get::<_, Option<JsonText<'_>>>(7)?.map_or_else(null, |data| on_one_line(data.0)),
            metadata: row.try_get::<_, Option<JsonText<'_>>>(8)?.map_or_else(null, |data| on_one_line(data.0)),
            unread_bytes: row.try_get::<_, Option<i64>>(9)?.map(i64::unsigned_abs),
        })
    }
}

impl From<&Event> for StoredEvent {
    fn from(event: &Event) -> Self {
        let since_1970 = Duration::from_millis(event.recorded_at.unsigned_abs());
        StoredEvent {
            position: event.position,
            tenant: event.tenant.to_string(),
            stream: event.stream.to_string(),
            version: event.version,
            event_type: event.event_type.to_string(),
            id: event.id.to_string(),
            recorded_at: if event.recorded_at < 0 { UNIX_EPOCH - since_1970 } else { UNIX_EPOCH + since_1970 },
            data: on_one_line(&event.data),
            metadata: on_one_line(&event.metadata),
            unread_bytes: None,
        }
    }
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// JSON without line ends, so that an event is always printed on one line. JSON has line ends only
/// between tokens; in strings they are escaped.
fn on_one_line(json: &str) -> Box<RawValue> {
    let text = json.replace(['\n', '\r'], " ");
    // The column's type guarantees valid JSON. If serde still rejects it, it is shown as
    // null, so that the event is listed.
    RawValue::from_string(text).unwrap_or_else(|_| null())
}

/// The first `limit` events after a position that match the filter, by position. It is a stream, so
/// a page is never in memory as a whole.
pub async fn page(
    session: &Session,
    filter: &Filter,
    after: i64,
    limit: i64,
) -> Result<impl Stream<Item = Result<StoredEvent, Error>> + use<>, Error> {
    // A statement that is sent with its types is planned for these values, so an absent filter
    // costs nothing.
    let limit_bytes = LARGEST_LISTED as i64;
    let parameters: [(&(dyn crate::db::types::ToSql + Sync), Type); 6] = [
        (&after, Type::INT8),
        (&filter.tenant, Type::TEXT),
        (&filter.stream, Type::TEXT),
        (&filter.event_type, Type::TEXT),
        (&limit, Type::INT8),
        (&limit_bytes, Type::INT8),
    ];
    let rows = session.query_typed_raw(include_str!("page.sql"), parameters).await?;
    Ok(rows.and_then(|row| std::future::ready(StoredEvent::from_row(&row))))
}

/// What identifies an event, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// Its position in the store.
    pub position: i64,
    /// Its tenant.
    pub tenant: String,
    /// Its stream.
    pub stream: String,
    /// Its version in the stream.
    pub version: i64,
    /// Its type.
    pub event_type: String,
    /// Its id.
    pub id: String,
}

/// The headers of the events at these positions, in no particular order. Positions without an event
/// are left out.
pub async fn headers(session: &Session, positions: &[i64]) -> Result<Vec<EventHeader>, Error> {
    let rows = session.query(include_str!("headers.sql"), &[&positions]).await?;
    let header = |row: &Row| EventHeader {
        position: row.get(0),
        tenant: row.get(1),
        stream: row.get(2),
        version: row.get(3),
        event_type: row.get(4),
        id: row.get(5),
    };
    Ok(rows.iter().map(header).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_serialized_as_one_line_in_camel_case() {
        let event = StoredEvent {
            position: 7,
            tenant: "acme".into(),
            stream: "cart-1".into(),
            version: 2,
            event_type: "ItemAdded".into(),
            id: "e7".into(),
            recorded_at: time::from_micros(1_357_016_400_123_456),
            data: on_one_line("{\r\n  \"sku\": \"a\\nb\",\n  \"price\": 1.10\n}"),
            metadata: on_one_line("{}"),
            unread_bytes: None,
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"position":7,"tenant":"acme","stream":"cart-1","version":2,"type":"ItemAdded","id":"e7","#.to_owned()
                + r#""recordedAt":"2013-01-01T05:00:00.123456Z","data":{    "sku": "a\nb",   "price": 1.10 },"metadata":{}}"#
        );
    }
}
