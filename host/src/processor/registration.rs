//! Registration of a processor: its rows are inserted on its first start, and compared on every
//! later start.
//!
//! Documents depend on the event types, the partitioning and the read-model version that built
//! them. A plugin that differs in one of these would mix two read models in one collection, so it
//! is rejected. `on-change = "continue"` allows all differences but the partitioning.

use futures_util::future::join_all;

use crate::{
    db::{Error, Session, Statement, describe},
    model::{
        cursor::{Progress, Snapshot},
        ids::{BUCKETS, CollectionName, TenantId},
        spec::{Descriptor, ProcessorSpec, Start},
        text,
    },
    tenants::Tenants,
};

/// Why a processor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Its documents were built differently.
    #[error(
        "processor {id} was built with {was}, and this plugin has {is}; continuing would mix two read models\nGive this plugin another id and other collections, or restore the former plugin. Unless the partitioning differs, on-change = \"continue\" in the manifest makes it continue with these documents."
    )]
    Changed {
        /// Its id.
        id: String,
        /// The properties with which its documents were built.
        was: String,
        /// The same properties of this plugin.
        is: String,
    },
    /// The database rejected the registration, for instance because a collection belongs to another
    /// processor.
    #[error("register processor {id}: {}", describe(.error))]
    Database {
        /// Its id.
        id: String,
        /// The error of the database.
        error: Error,
    },
    /// The statement could not be prepared.
    #[error("register processor {id}: {why}")]
    Unprepared {
        /// Its id.
        id: String,
        /// The error.
        why: String,
    },
}

/// The kind of processor. An id belongs to one kind forever.
const KIND: &str = "projector";

/// A processor to register.
#[derive(Clone, Copy)]
pub struct Registration<'a> {
    /// The plugin's spec.
    pub spec: &'a ProcessorSpec,
    /// The plugin's name.
    pub plugin: &'a str,
    /// SHA-256 of the file.
    pub digest: &'a str,
    /// Whether it continues documents that were built from different event types or by a different
    /// read-model version. A difference in the partitioning is always rejected.
    pub adopts: bool,
}

/// Registers a processor: ensures that it has its row, cursors and collections. `tenants` limit the
/// number of a tenant's collections.
pub async fn register(
    session: &Session,
    tenants: &Tenants,
    registration: Registration<'_>,
) -> Result<(), RegistrationError> {
    let mut registered = register_all(session, tenants, &[registration]).await;
    registered.pop().unwrap_or(Ok(()))
}

/// Registers several processors independently, in about the time of one. Returns the results in the
/// same order.
pub async fn register_all(
    session: &Session,
    tenants: &Tenants,
    registrations: &[Registration<'_>],
) -> Vec<Result<(), RegistrationError>> {
    let statement = session.prepare(include_str!("registration/register.sql")).await;
    let statement = match &statement {
        Ok(statement) => statement,
        Err(_) if registrations.is_empty() => return Vec::new(),
        Err(error) => {
            let failed = |of: &Registration<'_>| RegistrationError::Unprepared {
                id: of.spec.id.to_string(),
                why: describe(error),
            };
            return registrations.iter().map(|of| Err(failed(of))).collect();
        }
    };
    // Sent together, and executed in order, each in its own transaction.
    join_all(registrations.iter().map(|registration| registration.put(session, tenants, statement))).await
}

impl Registration<'_> {
    /// Registers one processor, in its own transaction.
    async fn put(&self, session: &Session, tenants: &Tenants, statement: &Statement) -> Result<(), RegistrationError> {
        let Registration { spec, plugin, digest, adopts } = self;
        let most_collections = spec.id.owner().map_or(0, |owner| tenants.limits(owner).collections);
        let most_collections = i32::try_from(most_collections).unwrap_or(i32::MAX);
        let id = spec.id.as_str();
        let database = |error| RegistrationError::Database { id: id.to_string(), error };
        let now = Basis::of(spec);
        let start = match spec.descriptor.start {
            Start::Beginning => Some(Progress::at(Snapshot::nothing()).to_string()),
            Start::Now => None,
        };
        let collections: Vec<&str> = spec.descriptor.collections.iter().map(CollectionName::as_str).collect();
        let register = async |event_types: &Option<Vec<String>>| -> Result<bool, RegistrationError> {
            let row = session
                .query_one(
                    statement,
                    &[
                        &id,
                        &KIND,
                        plugin,
                        digest,
                        &spec.descriptor.version,
                        event_types,
                        &now.partition_by,
                        &now.read_model_version,
                        adopts,
                        &spec.id.family().as_str(),
                        &spec.id.owner().map_or("", TenantId::as_str),
                        &start,
                        &i32::from(BUCKETS),
                        &collections,
                        &most_collections,
                    ],
                )
                .await
                .map_err(database)?;
            Ok(row.get(0))
        };
        if register(&spec.descriptor.event_types).await? {
            return Ok(());
        }
        let row = session.query_one(include_str!("registration/known.sql"), &[&id]).await.map_err(database)?;
        let stored: Option<Vec<String>> = row.get(0);
        let before = Basis::new(stored.clone(), row.get(1), row.get(2));
        // The statement compares event types in order, and the order does not matter.
        if before == now && register(&stored).await? {
            return Ok(());
        }
        Err(before.changed(&now, id))
    }
}

/// The properties that documents depend on.
#[derive(PartialEq)]
struct Basis {
    /// Sorted: their order does not matter.
    event_types: Option<Vec<String>>,
    partition_by: String,
    read_model_version: i32,
}

/// Why a version cannot continue the documents of another; none if it can. With `adopt` only the
/// partitioning must be equal.
pub fn difference(before: &ProcessorSpec, now: &ProcessorSpec, adopt: bool) -> Option<RegistrationError> {
    let (before, basis) = (Basis::of(before), Basis::of(now));
    let differs = if adopt { before.partition_by != basis.partition_by } else { before != basis };
    differs.then(|| before.changed(&basis, now.id.as_str()))
}

impl Basis {
    fn of(spec: &ProcessorSpec) -> Self {
        let Descriptor { event_types, partition_by, read_model_version, .. } = &spec.descriptor;
        Basis::new(event_types.clone(), partition_by.to_string(), *read_model_version as i32)
    }

    fn new(mut event_types: Option<Vec<String>>, partition_by: String, read_model_version: i32) -> Self {
        if let Some(types) = &mut event_types {
            types.sort();
        }
        Basis { event_types, partition_by, read_model_version }
    }

    fn changed(&self, now: &Basis, id: &str) -> RegistrationError {
        RegistrationError::Changed { id: id.into(), was: self.differing(now), is: now.differing(self) }
    }

    /// Describes the properties that differ from another basis.
    fn differing(&self, other: &Basis) -> String {
        let mut parts = Vec::new();
        if self.event_types != other.event_types {
            parts.push(match &self.event_types {
                None => "all event types".to_string(),
                Some(types) => format!("event types {}", text::some_of(types, ", ")),
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
