//! Stored components: the bytes of versions to which a plugin can be rolled back.
//!
//! Bytes are stored once for all plugins and found only through a plugin that ran them. A row is
//! trusted no more than a file: the reader must check its digest and its signature. [`prune`],
//! [`expire`] and [`sweep`] bound what is stored.

use crate::db::{Error, Session};

/// A version that has begun to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetainedVersion {
    /// The plugin's name.
    pub plugin: String,
    /// SHA-256 of its file.
    pub digest: String,
    /// The file's signature in hexadecimal; empty if none was required.
    pub signature: String,
    /// The public key that verifies it; empty if no signature was required.
    pub signed_by: String,
}

/// A stored component, not verified.
pub struct StoredComponent {
    /// The bytes; none if there are more than the caller's limit.
    pub bytes: Option<Vec<u8>>,
    /// The signature of its file; empty if none was required.
    pub signature: String,
}

/// The stored bytes of a version to which a plugin can be rolled back, if there are any.
pub async fn find(
    session: &Session,
    plugin: &str,
    digest: &str,
    max_bytes: u64,
) -> Result<Option<StoredComponent>, Error> {
    let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
    let row = session.query_opt(include_str!("components/find.sql"), &[&plugin, &digest, &max_bytes]).await?;
    Ok(row.map(|row| StoredComponent {
        bytes: row.get::<_, Option<&[u8]>>(0).map(<[u8]>::to_vec),
        signature: row.get(1),
    }))
}

/// Whether the bytes of a plugin's version are stored.
pub async fn is_retained(session: &Session, plugin: &str, digest: &str) -> Result<bool, Error> {
    let sql = "select exists (select from sandmill.retained_versions where plugin = $1 and digest = $2)";
    Ok(session.query_one(sql, &[&plugin, &digest]).await?.get(0))
}

/// Records versions that have begun to run; returns those whose bytes are missing.
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

/// Stores the bytes of a version and records it, in one transaction.
pub async fn store(session: &mut Session, ran: &RetainedVersion, bytes: &[u8]) -> Result<(), Error> {
    session.batch_execute("begin").await?;
    let stored = async {
        session.execute(include_str!("components/put.sql"), &[&ran.digest, &bytes]).await?;
        retain(session, std::slice::from_ref(ran)).await?;
        session.batch_execute("commit").await
    };
    let stored = stored.await;
    if stored.is_err() {
        // Only the first error is reported.
        let _ = session.batch_execute("rollback").await;
    }
    stored
}

/// Deletes all but `versions` versions of each plugin.
pub async fn prune(session: &Session, versions: usize) -> Result<(), Error> {
    let versions = i64::try_from(versions).unwrap_or(i64::MAX);
    session.execute(include_str!("components/prune.sql"), &[&versions]).await.map(drop)
}

/// Deletes plugins whose files were removed more than `days` days ago. Of each tenant's removed
/// plugins it also deletes versions beyond `tenant_bytes`.
pub async fn expire(session: &Session, days: i32, tenant_bytes: i64) -> Result<(), Error> {
    session.execute(include_str!("components/expire.sql"), &[&days]).await?;
    session.execute(include_str!("components/bound.sql"), &[&tenant_bytes]).await.map(drop)
}

/// Deletes the bytes that no version refers to; returns the number of components.
pub async fn sweep(session: &Session) -> Result<u64, Error> {
    session.execute(include_str!("components/sweep.sql"), &[]).await
}
