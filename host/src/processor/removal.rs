//! Removal of a processor: its rows are deleted, and its documents are kept or dropped.
//!
//! A processor whose plugin is gone keeps its cursor, its documents and the names of its
//! collections, so that the plugin may return. A removal ends that for good. It has two steps, and
//! a removal that is killed in between is completed by the next one. The first step is one
//! transaction: it deletes the processor's row, and with it cursors, lanes, pauses, dead letters
//! and records of shed events. The collections are *kept* without an owner, and another plugin
//! takes them over only with `on-change = "continue"`. The second step drops kept collections, a
//! few tables per transaction, so that the database's lock table has room for all of them.

use crate::{
    cluster::host_lock,
    db::{
        Error, GenericClient, Session,
        audit::{self, AuditEntry},
        describe,
    },
    model::ids::ProcessorId,
};

/// Collections that are dropped in one transaction. Each locks some seven relations until it ends.
const DROPPED_AT_ONCE: i64 = 20;

/// The data that is stored of a processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessorRemains {
    /// Whether it has a row. If not, only its documents were kept.
    pub known: bool,
    /// Dead letters.
    pub dead_letters: i64,
    /// Parked streams.
    pub parked_streams: i64,
    /// Lanes behind its cursor.
    pub lanes: i64,
    /// Pauses.
    pub pauses: i64,
    /// Records of shed events.
    pub sheds: i64,
    /// Its collections, by name.
    pub collections: Vec<RemainingCollection>,
}

/// A collection of a processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemainingCollection {
    /// Its view's name.
    pub view: String,
    /// The view as SQL names it: with its schema, quoted if needed.
    pub relation: String,
    /// The number of its documents; none if its table is missing, which does not prevent the
    /// removal.
    pub documents: Option<i64>,
}

/// Why a processor cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// A host runs it.
    #[error(
        "a host runs {0}; nothing was removed\nTake its plugin's file out of the plugins folder, or stop the host, then try again."
    )]
    Running(ProcessorId),
    /// The error of the database.
    #[error("{}", describe(.0))]
    Database(#[from] Error),
}

/// Finds what is stored of a processor; none if there is nothing.
pub async fn find(session: &Session, id: &ProcessorId) -> Result<Option<ProcessorRemains>, Error> {
    let row = session.query_one(include_str!("removal/remains.sql"), &[&id.as_str()]).await?;
    let mut remains = ProcessorRemains {
        known: row.get(0),
        dead_letters: row.get(1),
        lanes: row.get(2),
        pauses: row.get(3),
        sheds: row.get(4),
        parked_streams: row.get(5),
        collections: Vec::new(),
    };
    for row in session.query(include_str!("removal/collections.sql"), &[&id.as_str()]).await? {
        let table: Option<&str> = row.get(0);
        let documents = match table {
            Some(table) => Some(session.query_one(&format!("select count(*) from {table}"), &[]).await?.get(0)),
            None => None,
        };
        remains.collections.push(RemainingCollection { view: row.get(1), relation: row.get(2), documents });
    }
    Ok((remains.known || !remains.collections.is_empty()).then_some(remains))
}

/// Removes a processor and keeps its documents. Fails while a host runs it. The removal is recorded
/// in the audit log.
pub async fn release(session: &mut Session, id: &ProcessorId, entry: &AuditEntry<'_>) -> Result<(), RemovalError> {
    let transaction = session.client_mut().transaction().await?;
    // A concurrent registration waits for this row, and then finds none.
    transaction.execute("select from sandmill.processors where id = $1 for update", &[&id.as_str()]).await?;
    if is_running(&transaction, id).await? {
        return Err(RemovalError::Running(id.clone()));
    }
    transaction.execute(include_str!("removal/release.sql"), &[&id.as_str()]).await?;
    transaction.execute("delete from sandmill.processors where id = $1", &[&id.as_str()]).await?;
    // The earlier versions of a plugin that is gone are forgotten too. A host deletes their files.
    let forget = "delete from sandmill.plugins where processor = $1 and gone_since is not null";
    transaction.execute(forget, &[&id.as_str()]).await?;
    audit::record(&transaction, entry).await?;
    transaction.commit().await?;
    Ok(())
}

/// Drops what was kept of a processor.
pub async fn drop_kept(session: &mut Session, id: &ProcessorId) -> Result<(), Error> {
    loop {
        let transaction = session.client_mut().transaction().await?;
        // Prevents the views from being moved to another schema in the meantime.
        transaction.batch_execute("lock table sandmill.role_grants in share mode").await?;
        let taken = transaction.query(include_str!("removal/take.sql"), &[&id.as_str(), &DROPPED_AT_ONCE]).await?;
        if taken.is_empty() {
            return transaction.commit().await;
        }
        for row in taken {
            let (views, tables): (Vec<String>, Vec<String>) = (row.get(0), row.get(1));
            for view in views {
                transaction.batch_execute(&format!("drop view if exists {view}")).await?;
            }
            for table in tables {
                transaction.batch_execute(&format!("drop table {table}")).await?;
            }
        }
        transaction.commit().await?;
    }
}

/// Whether a host runs it: its session commits, or a live host's folder has its file and it is
/// between two terms.
pub(super) async fn is_running(client: &impl GenericClient, id: &ProcessorId) -> Result<bool, Error> {
    let row = client.query_one(include_str!("removal/running.sql"), &[&id.as_str()]).await?;
    Ok(row.get(0) || row.get(1) && host_lock::is_held(client).await?)
}
