//! A count of the events that each tenant appended since the last call, for views of busy tenants.
//!
//! It follows snapshots: an event is counted once, when its transaction becomes visible, no matter
//! how late that is or what its position is. A call costs as much as counting the new events.
//! Nothing is written.

use crate::db::{Error, Session};

/// The state of such a count.
#[derive(Debug)]
pub struct Tally {
    /// The snapshot whose events are counted already, in PostgreSQL's text form.
    seen: String,
}

impl Tally {
    /// Starts to count after the events that are visible now.
    pub async fn from_now(session: &Session) -> Result<Self, Error> {
        let row = session.query_one("select pg_current_snapshot()::text", &[]).await?;
        Ok(Tally { seen: row.get(0) })
    }

    /// The tenants that have appended since the last call, with their numbers of events, in no
    /// order.
    pub async fn new_events(&mut self, session: &Session) -> Result<Vec<(String, u64)>, Error> {
        let rows = session.query(include_str!("tally/news.sql"), &[&self.seen]).await?;
        let mut counts = Vec::with_capacity(rows.len());
        for row in &rows {
            self.seen = row.get(0);
            // Without new events there is one row, without a tenant.
            if let Some(tenant) = row.get(1) {
                counts.push((tenant, row.get::<_, i64>(2).unsigned_abs()));
            }
        }
        Ok(counts)
    }
}
