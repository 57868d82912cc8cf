//! A processor's rows: made at its first start, compared at every later one.
//!
//! Documents belong to what built them. A plugin that handles other event types, partitions otherwise or raises its read-model version would
//! continue a read model that its code did not build; it is refused instead of mixing the two.

use futures_util::future::join_all;

use crate::{
    db::{Error, Session, Statement, describe},
    model::{
        cursor::{Progress, Snapshot},
        handler::{Descriptor, Start},
        ids::{BUCKETS, CollectionName, TenantId},
        text,
    },
    tenants::Tenants,
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
    /// The database could not be asked.
    #[error("register processor {id}: {why}")]
    Unasked {
        /// Which.
        id: String,
        /// Why.
        why: String,
    },
}

/// What kind of processor it is. An id belongs to one kind for good.
const KIND: &str = "projector";

/// What is registered.
#[derive(Clone, Copy)]
pub struct Registration<'a> {
    /// What it says it is.
    pub descriptor: &'a Descriptor,
    /// The file's name.
    pub plugin: &'a str,
    /// SHA-256 of the file.
    pub digest: &'a str,
    /// Whether it goes on with documents that were built of other event types or by another read-model version; never with those of another partitioning.
    pub adopts: bool,
}

/// Makes sure that a processor has its row, its cursors and its collections. `tenants` know how
/// many of those a tenant may have.
pub async fn register(
    session: &Session,
    tenants: &Tenants,
    registration: Registration<'_>,
) -> Result<(), RegistrationError> {
    let mut registered = register_all(session, tenants, &[registration]).await;
    registered.pop().unwrap_or(Ok(()))
}

/// The same for several, each for itself, in about the time of one: what each came to, in their order.
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
            let failed = |of: &Registration<'_>| RegistrationError::Unasked {
                id: of.descriptor.id.to_string(),
                why: describe(error),
            };
            return registrations.iter().map(|of| Err(failed(of))).collect();
        }
    };
    // They travel together, and are worked off in order, each in a transaction of its own.
    join_all(registrations.iter().map(|registration| registration.put(session, tenants, statement))).await
}

impl Registration<'_> {
    async fn put(&self, session: &Session, tenants: &Tenants, statement: &Statement) -> Result<(), RegistrationError> {
        let Registration { descriptor, plugin, digest, adopts } = self;
        let most_collections = descriptor.id.owner().map_or(0, |owner| tenants.limits(owner).collections);
        let most_collections = i32::try_from(most_collections).unwrap_or(i32::MAX);
        let id = descriptor.id.as_str();
        let database = |error| RegistrationError::Database { id: id.to_string(), error };
        let now = Basis::of(descriptor);
        let start = match descriptor.start {
            Start::Beginning => Some(Progress::at(Snapshot::nothing()).to_string()),
            Start::Now => None,
        };
        let collections: Vec<&str> = descriptor.collections.iter().map(CollectionName::as_str).collect();
        let row = session
            .query_one(
                statement,
                &[
                    &id,
                    &KIND,
                    plugin,
                    digest,
                    &descriptor.version,
                    &now.event_types,
                    &now.partition_by,
                    &now.read_model_version,
                    adopts,
                    &descriptor.id.family().as_str(),
                    &descriptor.id.owner().map_or("", TenantId::as_str),
                    &start,
                    &i32::from(BUCKETS),
                    &collections,
                    &most_collections,
                ],
            )
            .await
            .map_err(database)?;
        if row.get(0) {
            return Ok(());
        }
        let row = session.query_one(include_str!("registration/known.sql"), &[&id]).await.map_err(database)?;
        let before = Basis { event_types: row.get(0), partition_by: row.get(1), read_model_version: row.get(2) };
        Err(before.changed(&now, id))
    }
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
