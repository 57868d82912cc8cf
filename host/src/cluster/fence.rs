//! The fencing token of a term, which proves uninterrupted ownership of a share of a processor.

use std::fmt;

use crate::{
    db::{Error, Session},
    model::{cursor::Progress, share::Share},
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

/// Begins a term on a share. From then on every earlier token is rejected. The token is durable
/// before this returns: if a crash could undo it, an earlier owner's commit might succeed. `host`
/// is the pid of the session that holds the host lock. Returns the progress of the share; none if
/// the share no longer exists or owns other buckets.
pub async fn take(session: &mut Session, share: &Share, host: i32) -> Result<Option<(Fence, Progress)>, Error> {
    let Share { processor, generation, number, owns } = share;
    let fence = Fence(uuid::Uuid::new_v4().simple().to_string());
    let transaction = session.client_mut().transaction().await?;
    transaction.batch_execute("set local synchronous_commit = on").await?;
    // This is the order in which commits lock these rows.
    transaction.execute(include_str!("fence/own.sql"), &[&processor.as_str(), &host]).await?;
    let row = transaction
        .query_opt(
            include_str!("fence/take.sql"),
            &[&processor.as_str(), generation, number, &owns.first(), &owns.last(), &fence.as_str()],
        )
        .await?;
    transaction.commit().await?;
    // The column's domain checks the form, so every value parses.
    Ok(row.and_then(|row| Some((fence, row.get::<_, &str>(0).parse().ok()?))))
}

/// Records that no host runs a processor any longer, unless another term of its share has begun.
pub async fn release(session: &Session, share: &Share, fence: &Fence) -> Result<(), Error> {
    let Share { processor, generation, number, .. } = share;
    let params: [&(dyn crate::db::types::ToSql + Sync); 4] = [&processor.as_str(), generation, number, &fence.as_str()];
    session.execute(include_str!("fence/release.sql"), &params).await.map(drop)
}
