//! The rows that hold components: the bytes of versions that plugins can go back to.
//!
//! Bytes are stored once for all plugins and found only through the plugin that ran them. A row is
//! no more trusted than a file: whoever reads one checks its digest and its signature again.
//! [`prune`], [`expire`] and [`sweep`] bound what is held.

use crate::db::{Error, Session};

/// A version that has begun to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetainedVersion {
    /// The plugin's name.
    pub plugin: String,
    /// SHA-256 of its file.
    pub digest: String,
    /// The file's signature in hexadecimal; empty where none was asked for.
    pub signature: String,
    /// The public key that it is of; empty where none was asked for.
    pub signed_by: String,
}

/// A component as a row has it, checked by nobody yet.
pub struct StoredComponent {
    /// The bytes; none where they are more than wanted.
    pub bytes: Option<Vec<u8>>,
    /// The signature that its file had; empty where none was asked for.
    pub signature: String,
}

/// The bytes of a version that a plugin can go back to, if they are stored.
pub async fn find(
    session: &Session,
    plugin: &str,
    digest: &str,
    most_bytes: u64,
) -> Result<Option<StoredComponent>, Error> {
    let most = i64::try_from(most_bytes).unwrap_or(i64::MAX);
    let row = session.query_opt(include_str!("components/find.sql"), &[&plugin, &digest, &most]).await?;
    Ok(row.map(|row| StoredComponent {
        bytes: row.get::<_, Option<&[u8]>>(0).map(<[u8]>::to_vec),
        signature: row.get(1),
    }))
}

/// Whether a plugin can go back to a version: its bytes are stored.
pub async fn is_retained(session: &Session, plugin: &str, digest: &str) -> Result<bool, Error> {
    let sql = "select exists (select from sandmill.retained_versions where plugin = $1 and digest = $2)";
    Ok(session.query_one(sql, &[&plugin, &digest]).await?.get(0))
}

/// Records versions that have begun to run, and gives those whose bytes are not stored yet.
pub async fn retain(session: &Session, ran: &[RetainedVersion]) -> Result<Vec<RetainedVersion>, Error> {
    let column = |of: fn(&RetainedVersion) -> &str| ran.iter().map(of).collect::<Vec<_>>();
    let rows = session
        .query(
            include_str!("components/retain.sql"),
            &[
                &column(|ran| &ran.plugin),
                &column(|ran| &ran.digest),
                &column(|ran| &ran.signature),
                &column(|ran| &ran.signed_by),
            ],
        )
        .await?;
    let recorded: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let missing = (1..).zip(ran).filter(|(place, _)| !recorded.contains(place));
    Ok(missing.map(|(_, ran)| ran.clone()).collect())
}

/// Stores the bytes of a version that has begun to run, and records it, both or neither.
pub async fn store(session: &mut Session, ran: &RetainedVersion, bytes: &[u8]) -> Result<(), Error> {
    session.batch_execute("begin").await?;
    let stored = async {
        session.execute(include_str!("components/put.sql"), &[&ran.digest, &bytes]).await?;
        retain(session, std::slice::from_ref(ran)).await?;
        session.batch_execute("commit").await
    };
    let stored = stored.await;
    if stored.is_err() {
        // The error that came first is the one that counts.
        let _ = session.batch_execute("rollback").await;
    }
    stored
}

/// Forgets, of each plugin, all but so many versions.
pub async fn prune(session: &Session, versions: usize) -> Result<(), Error> {
    let versions = i64::try_from(versions).unwrap_or(i64::MAX);
    session.execute(include_str!("components/prune.sql"), &[&versions]).await.map(drop)
}

/// Forgets plugins whose files have been gone for so many days, and, of each tenant's own that are
/// gone, the versions beyond so many bytes.
pub async fn expire(session: &Session, days: i32, tenant_bytes: i64) -> Result<(), Error> {
    session.execute(include_str!("components/expire.sql"), &[&days]).await?;
    session.execute(include_str!("components/bound.sql"), &[&tenant_bytes]).await.map(drop)
}

/// Removes the bytes that no version refers to any more; how many components that were.
pub async fn sweep(session: &Session) -> Result<u64, Error> {
    session.execute(include_str!("components/sweep.sql"), &[]).await
}
