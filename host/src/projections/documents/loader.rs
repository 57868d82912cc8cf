//! Where the reads of all lanes meet.
//!
//! A lane that misses documents puts down what it wants and waits. Whoever drives the processor lets the loader [`serve`](Loader::serve) when every
//! running lane waits, or the first has waited long enough; then all of it is read with one statement a collection.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Duration, Instant},
};

use super::{DocumentKey, ReadError, cache::Known, on, table};
use crate::{
    db::{Error, Session, Statement, describe},
    model::ids::CollectionName,
};

/// How long the first read waits for others to join it.
const PATIENCE: Duration = Duration::from_millis(1);

/// What a lane wants to read: documents of one collection.
pub(super) struct Request {
    collection: CollectionName,
    keys: Vec<DocumentKey>,
}

impl Request {
    pub(super) fn new(collection: CollectionName, keys: Vec<DocumentKey>) -> Self {
        Request { collection, keys }
    }
}

type Answer = Result<Vec<(DocumentKey, Known)>, ReadError>;

/// Reads documents for all lanes of a processor.
pub struct Loader {
    session: Session,
    statements: HashMap<CollectionName, (Statement, Statement)>,
    waiting: Mutex<Waiting>,
    asked: Notify,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<(Request, oneshot::Sender<Answer>)>,
    since: Option<Instant>,
}

impl Loader {
    pub(super) async fn open(session: Session, collections: &[CollectionName]) -> Result<Self, Error> {
        let mut statements = HashMap::new();
        for collection in collections {
            let table = table(&session, collection).await?;
            let read = session.prepare(&on(&table, include_str!("read.sql"))).await?;
            let versions = session.prepare(&on(&table, include_str!("versions.sql"))).await?;
            statements.insert(collection.clone(), (read, versions));
        }
        Ok(Loader { session, statements, waiting: Mutex::default(), asked: Notify::new() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request down and waits for its answer: one document for each key, in order.
    pub(super) async fn load(&self, request: Request) -> Answer {
        let (answer, wait) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            waiting.since.get_or_insert_with(Instant::now);
            waiting.requests.push((request, answer));
        }
        self.asked.notify_one();
        // Without an answer the term has ended, and this lane with it.
        wait.await.unwrap_or_else(|_| Err(ReadError("the term has ended".into())))
    }

    /// Waits until it is time to read: every one of the `running` lanes waits, or the first has waited long enough. Cancel safe.
    pub async fn due(&self, running: usize) {
        loop {
            let (requests, since) = {
                let waiting = self.waiting();
                (waiting.requests.len(), waiting.since)
            };
            if requests > 0 && requests >= running {
                return;
            }
            match since {
                None => self.asked.notified().await,
                Some(since) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(since + PATIENCE) => return,
                        () = self.asked.notified() => {}
                    }
                }
            }
        }
    }

    /// Reads everything that is wanted now, one statement a collection, and answers.
    pub async fn serve(&self) -> Result<(), ReadError> {
        let requests = {
            let mut waiting = self.waiting();
            waiting.since = None;
            std::mem::take(&mut waiting.requests)
        };
        let mut by_collection: BTreeMap<CollectionName, Vec<(Request, oneshot::Sender<Answer>)>> = BTreeMap::new();
        for (request, answer) in requests {
            by_collection.entry(request.collection.clone()).or_default().push((request, answer));
        }
        for (collection, requests) in by_collection {
            let keys: Vec<&DocumentKey> = requests.iter().flat_map(|(request, _)| &request.keys).collect();
            let mut read = self.read(&collection, &keys).await.map_err(|error| ReadError(describe(&error)))?;
            for (request, answer) in requests {
                let document = |key: DocumentKey| {
                    let known = read.remove(&key).unwrap_or_else(Known::absent);
                    (key, known)
                };
                // A lane that is not waiting any more has been ended.
                let _ = answer.send(Ok(request.keys.into_iter().map(document).collect()));
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        collection: &CollectionName,
        keys: &[&DocumentKey],
    ) -> Result<HashMap<DocumentKey, Known>, Error> {
        let Some((statement, _)) = self.statements.get(collection) else { return Ok(HashMap::new()) };
        let (tenants, ids) = pairs(keys);
        let rows = self.session.query(statement, &[&tenants, &ids]).await?;
        let found: HashMap<(&str, &str), Known> = rows
            .iter()
            .map(|row| {
                let known = Known {
                    version: row.get(2),
                    data: Some(row.get::<_, &str>(3).into()),
                    owner: row.get::<_, Option<&str>>(4).map(Arc::from),
                };
                ((row.get(0), row.get(1)), known)
            })
            .collect();
        Ok(keys
            .iter()
            .filter_map(|key| {
                let known = found.get(&(key.lane.tenant.as_str(), &*key.id))?;
                Some(((*key).clone(), known.clone()))
            })
            .collect())
    }

    /// What must be known of documents that are written without having been read. Their text is not read.
    pub(super) async fn versions(
        &self,
        collection: &CollectionName,
        keys: Vec<DocumentKey>,
    ) -> Result<HashMap<DocumentKey, Known>, Error> {
        let Some((_, statement)) = self.statements.get(collection) else { return Ok(HashMap::new()) };
        let (tenants, ids) = pairs(&keys.iter().collect::<Vec<_>>());
        let rows = self.session.query(statement, &[&tenants, &ids]).await?;
        let found: HashMap<(&str, &str), (i64, Option<&str>)> =
            rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect();
        let known = |key: DocumentKey| {
            let (version, owner) = found.get(&(key.lane.tenant.as_str(), &*key.id)).copied().unwrap_or((0, None));
            (key, Known { version, data: None, owner: owner.map(Arc::from) })
        };
        Ok(keys.into_iter().map(known).collect())
    }
}

fn pairs<'a>(keys: &[&'a DocumentKey]) -> (Vec<&'a str>, Vec<&'a str>) {
    keys.iter().map(|key| (key.lane.tenant.as_str(), &*key.id)).unzip()
}
