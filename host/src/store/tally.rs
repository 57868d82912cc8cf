//! How many events each tenant has appended since one last asked, for views that show who is busy.
//!
//! It goes by snapshots as every follower does: an event is counted once, when its transaction is visible, however late that is and whatever
//! its position. Asking costs what came since, and nothing is written.

use crate::db::{Error, Session};

/// What has been counted so far.
#[derive(Debug)]
pub struct Tally {
    /// The snapshot whose events are counted, as PostgreSQL writes it; nobody but PostgreSQL reads it.
    seen: String,
}

impl Tally {
    /// Counts from what is visible now.
    pub async fn from_now(session: &Session) -> Result<Self, Error> {
        let row = session.query_one("select pg_current_snapshot()::text", &[]).await?;
        Ok(Tally { seen: row.get(0) })
    }

    /// Tenants that have appended since the last time, and how many events each, in no order.
    pub async fn news(&mut self, session: &Session) -> Result<Vec<(String, u64)>, Error> {
        let rows = session.query(include_str!("tally/news.sql"), &[&self.seen]).await?;
        let mut news = Vec::with_capacity(rows.len());
        for row in &rows {
            self.seen = row.get(0);
            // A time without news has one row, without a tenant.
            if let Some(tenant) = row.get(1) {
                news.push((tenant, row.get::<_, i64>(2).unsigned_abs()));
            }
        }
        Ok(news)
    }
}
