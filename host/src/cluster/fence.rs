//! The fence: proof of one uninterrupted ownership.

use std::fmt;

use crate::{
    db::{Error, Session},
    model::{cursor::Progress, ids::ProcessorId},
};

/// A random token that every commit of a term must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(String);

impl Fence {
    /// The token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Begins a term on all buckets of a processor: from here on every earlier token is refused. Durable before it returns, since a token that
/// a crash took back could let an older owner's commit pass. `host` is the pid of the session that holds the host lock.
/// Returns the buckets' progress.
pub async fn take(
    session: &mut Session,
    processor: &ProcessorId,
    host: i32,
) -> Result<(Fence, Vec<(i16, Progress)>), Error> {
    let fence = Fence(uuid::Uuid::new_v4().simple().to_string());
    let transaction = session.client_mut().transaction().await?;
    transaction.batch_execute("set local synchronous_commit = on").await?;
    // In the order in which commits lock these rows.
    transaction.execute(include_str!("fence/own.sql"), &[&processor.as_str(), &host]).await?;
    let rows = transaction.query(include_str!("fence/take.sql"), &[&processor.as_str(), &fence.as_str()]).await?;
    transaction.commit().await?;
    let mut cursors = Vec::with_capacity(rows.len());
    for row in rows {
        let text: &str = row.try_get(1)?;
        // The column's domain keeps the form; what passes it parses.
        if let Ok(progress) = text.parse() {
            cursors.push((row.get(0), progress));
        }
    }
    Ok((fence, cursors))
}

/// Records that no host runs a processor any more, unless another term has begun since.
pub async fn release(session: &Session, processor: &ProcessorId, fence: &Fence) -> Result<(), Error> {
    session.execute(include_str!("fence/release.sql"), &[&processor.as_str(), &fence.as_str()]).await.map(drop)
}
