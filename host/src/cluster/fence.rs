//! The fencing token of a term, which proves uninterrupted ownership of a processor.

use std::fmt;

use crate::{
    db::{Error, Session},
    model::{cursor::Progress, ids::ProcessorId},
};

/// A random token that every commit of a term must present.
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

/// Begins a term on all buckets of a processor. From then on every earlier token is rejected. The
/// token is durable before this returns: if a crash could undo it, an earlier owner's commit might
/// succeed. `host` is the pid of the session that holds the host lock. Returns the progress of the
/// buckets.
pub async fn take(
    session: &mut Session,
    processor: &ProcessorId,
    host: i32,
) -> Result<(Fence, Vec<(i16, Progress)>), Error> {
    let fence = Fence(uuid::Uuid::new_v4().simple().to_string());
    let transaction = session.client_mut().transaction().await?;
    transaction.batch_execute("set local synchronous_commit = on").await?;
    // This is the order in which commits lock these rows.
    transaction.execute(include_str!("fence/own.sql"), &[&processor.as_str(), &host]).await?;
    let rows = transaction.query(include_str!("fence/take.sql"), &[&processor.as_str(), &fence.as_str()]).await?;
    transaction.commit().await?;
    let mut cursors = Vec::with_capacity(rows.len());
    for row in rows {
        let text: &str = row.try_get(1)?;
        // The column's domain checks the form, so every value parses.
        if let Ok(progress) = text.parse() {
            cursors.push((row.get(0), progress));
        }
    }
    Ok((fence, cursors))
}

/// Records that no host runs a processor any longer, unless another term has begun.
pub async fn release(session: &Session, processor: &ProcessorId, fence: &Fence) -> Result<(), Error> {
    session.execute(include_str!("fence/release.sql"), &[&processor.as_str(), &fence.as_str()]).await.map(drop)
}
