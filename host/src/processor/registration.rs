//! A processor's rows: made at its first start, compared at every later one.
//!
//! Documents belong to what built them. A plugin that handles other event types, partitions otherwise or raises its read-model version would
//! continue a read model that its code did not build; it is refused instead of mixing the two.

use crate::{
    db::{Error, Session, describe},
    model::{
        cursor::{ParseError, Progress, Snapshot},
        handler::{Descriptor, Start},
        ids::{BUCKETS, TenantId},
    },
};

/// Why a processor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Its documents were built by something else.
    #[error(
        "processor {id} was built with {was}, and this plugin has {is}; its documents would become a mixture\nGive this plugin another id and other collections, or bring the former one back; unless it is partitioned otherwise, on-change = \"continue\" in its manifest lets it go on with them."
    )]
    Changed {
        /// Which.
        id: String,
        /// As it was.
        was: String,
        /// As it is.
        is: String,
    },
    /// The database refused, for instance because a collection belongs to another processor.
    #[error("register processor {id}: {}", describe(.error))]
    Database {
        /// Which.
        id: String,
        /// What it said.
        error: Error,
    },
    /// A snapshot of unknown form.
    #[error(transparent)]
    Snapshot(#[from] ParseError),
}

/// Makes sure that a processor has its row, its cursors and its collections. `plugin` names the file, `digest` its content. With `adopt` it goes on with documents that
/// were built of other event types or by another read-model version; never with those of another partitioning.
pub async fn register(
    session: &mut Session,
    descriptor: &Descriptor,
    plugin: &str,
    digest: &str,
    adopt: bool,
) -> Result<(), RegistrationError> {
    let database = |error| RegistrationError::Database { id: descriptor.id.to_string(), error };
    let id = descriptor.id.as_str();
    let transaction = session.client_mut().transaction().await.map_err(database)?;
    let now = Basis::of(descriptor);
    let put = transaction
        .execute(
            include_str!("registration/put.sql"),
            &[
                &id,
                &plugin,
                &digest,
                &descriptor.version,
                &now.event_types,
                &now.partition_by,
                &now.read_model_version,
                &adopt,
                &descriptor.family(),
                &descriptor.owner.as_ref().map_or("", TenantId::as_str),
            ],
        )
        .await
        .map_err(database)?;
    if put == 0 {
        let row = transaction.query_one(include_str!("registration/known.sql"), &[&id]).await.map_err(database)?;
        let before = Basis { event_types: row.get(0), partition_by: row.get(1), read_model_version: row.get(2) };
        return Err(before.changed(&now, id));
    }
    let start = match descriptor.start {
        Start::Beginning => Snapshot::nothing(),
        Start::Now => {
            let row = transaction.query_one("select pg_current_snapshot()::text", &[]).await.map_err(database)?;
            row.get::<_, &str>(0).parse()?
        }
    };
    transaction
        .execute(
            include_str!("registration/cursors.sql"),
            &[&id, &i32::from(BUCKETS), &Progress::at(start).to_string()],
        )
        .await
        .map_err(database)?;
    for collection in &descriptor.collections {
        transaction
            .execute(include_str!("registration/collection.sql"), &[&collection.as_str(), &id])
            .await
            .map_err(database)?;
    }
    transaction.commit().await.map_err(database)
}

/// What documents are built by.
#[derive(PartialEq)]
struct Basis {
    event_types: Option<Vec<String>>,
    partition_by: String,
    read_model_version: i32,
}

/// Why documents that one version has built are nothing for another one, which would `adopt` them or not; none where they are.
pub fn difference(before: &Descriptor, now: &Descriptor, adopt: bool) -> Option<RegistrationError> {
    let (before, basis) = (Basis::of(before), Basis::of(now));
    let differs = if adopt { before.partition_by != basis.partition_by } else { before != basis };
    differs.then(|| before.changed(&basis, now.id.as_str()))
}

impl Basis {
    fn of(descriptor: &Descriptor) -> Self {
        let sorted = |mut types: Vec<String>| {
            types.sort();
            types
        };
        Basis {
            event_types: descriptor.event_types.clone().map(sorted),
            partition_by: descriptor.partition_by.to_string(),
            read_model_version: descriptor.read_model_version as i32,
        }
    }

    fn changed(&self, now: &Basis, id: &str) -> RegistrationError {
        RegistrationError::Changed { id: id.into(), was: self.differing(now), is: now.differing(self) }
    }

    /// Says, of what differs from another one, how it is here.
    fn differing(&self, other: &Basis) -> String {
        let mut parts = Vec::new();
        if self.event_types != other.event_types {
            parts.push(match &self.event_types {
                None => "all event types".to_string(),
                Some(types) => format!("event types {}", types.join(", ")),
            });
        }
        if self.partition_by != other.partition_by {
            parts.push(format!("partitioning by {}", self.partition_by));
        }
        if self.read_model_version != other.read_model_version {
            parts.push(format!("read-model version {}", self.read_model_version));
        }
        parts.join(" and ")
    }
}
