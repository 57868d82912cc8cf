//! Where the reads of all lanes meet.
//!
//! A lane that misses documents puts down what it wants and waits. Whoever drives the processor lets the loader [`serve`](Loader::serve) when every
//! running lane waits, or the first has waited long enough; then all of it is read with one statement a collection.
//!
//! What one lane asks for at once is bounded in bytes. Rows are counted as they arrive, so what is too much is never held.
//!
//! There are two of them for a processor, each with a session: one for all, and one for tenants whose reads are slow, which serves one tenant at a time, the
//! quickest first. [`slow`](super::slow) says who those are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::TryStreamExt;
use tokio::{
    sync::{Notify, oneshot},
    time::{Duration, Instant},
};

use super::{DocumentKey, ReadError, cache::Known, on, table};
use crate::{
    db::{Error, Session, Statement, describe},
    model::ids::{CollectionName, TenantId},
};

/// How long the first read waits for others to join it.
const PATIENCE: Duration = Duration::from_millis(1);

/// Documents are looked up by their key, whatever the planner thinks of a table that was empty a moment ago.
const ONE_PLAN: &str = "set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set enable_bitmapscan = off; \
                        set plan_cache_mode = force_generic_plan";

/// What a lane wants to read: documents of one collection.
pub(super) struct Request {
    collection: CollectionName,
    keys: Vec<DocumentKey>,
}

impl Request {
    fn tenant(&self) -> Option<&TenantId> {
        self.keys.first().map(|key| &key.lane.tenant)
    }

    pub(super) fn new(collection: CollectionName, keys: Vec<DocumentKey>) -> Self {
        Request { collection, keys }
    }
}

type Answer = Result<(Vec<(DocumentKey, Known)>, Took), ReadError>;

/// What reading has taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// The statement that the request was part of.
    pub(super) all: Duration,
    /// The request's part of it, by what it asked for.
    pub(super) part: Duration,
}

/// Reads documents for all lanes of a processor.
pub struct Loader {
    session: Session,
    statements: HashMap<CollectionName, (Statement, Statement)>,
    /// Bytes of documents that one request may be answered with.
    most_bytes: usize,
    /// Whether tenants are served together, so that reads meet.
    together: bool,
    waiting: Mutex<Waiting>,
    asked: Notify,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<(Request, oneshot::Sender<Answer>)>,
    /// How long each request's tenant made others wait lately, in the same order; the least goes first where they are not served together.
    ranks: Vec<Duration>,
    since: Option<Instant>,
}

impl Loader {
    pub(super) async fn open(
        session: Session,
        collections: &[CollectionName],
        most_bytes: usize,
        together: bool,
    ) -> Result<Self, Error> {
        session.batch_execute(ONE_PLAN).await?;
        let mut statements = HashMap::new();
        for collection in collections {
            let table = table(&session, collection).await?;
            let read = session.prepare(&on(&table, include_str!("read.sql"))).await?;
            let versions = session.prepare(&on(&table, include_str!("versions.sql"))).await?;
            statements.insert(collection.clone(), (read, versions));
        }
        Ok(Loader { session, statements, most_bytes, together, waiting: Mutex::default(), asked: Notify::new() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request down and waits for its answer: one document for each key, in order. `rank` is how long reads of its tenant take.
    pub(super) async fn load(&self, request: Request, rank: Duration) -> Answer {
        let (answer, wait) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            waiting.since.get_or_insert_with(Instant::now);
            waiting.requests.push((request, answer));
            waiting.ranks.push(rank);
        }
        self.asked.notify_one();
        // Without an answer the term has ended, and this lane with it.
        wait.await.unwrap_or_else(|_| Err(ReadError::Lost("the term has ended".into())))
    }

    /// Waits until it is time to read: every one of the `running` lanes waits, or the first has waited long enough. Cancel safe.
    pub async fn due(&self, running: usize) {
        loop {
            let (requests, since) = {
                let waiting = self.waiting();
                (waiting.requests.len(), waiting.since)
            };
            if requests > 0 && (requests >= running || !self.together) {
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
        let requests = self.waiting().take(self.together);
        let mut by_collection: BTreeMap<CollectionName, Vec<(Request, oneshot::Sender<Answer>)>> = BTreeMap::new();
        for (request, answer) in requests {
            by_collection.entry(request.collection.clone()).or_default().push((request, answer));
        }
        for (collection, requests) in by_collection {
            let (requests, answers): (Vec<Request>, Vec<_>) = requests.into_iter().unzip();
            let began = Instant::now();
            let read = self.read(&collection, &requests).await;
            let all = began.elapsed();
            let keys = requests.iter().map(|request| request.keys.len()).sum::<usize>().max(1);
            let (found, too_much) = read.map_err(|error| ReadError::Lost(describe(&error)))?;
            let mut documents = Vec::with_capacity(requests.len());
            for (request, too_much) in requests.iter().zip(too_much) {
                let document = |key: &DocumentKey| found.get(&place(key)).cloned().unwrap_or_else(Known::absent);
                documents.push(match too_much {
                    true => Err(ReadError::TooMuch(self.most_bytes)),
                    false => Ok(request.keys.iter().map(document).collect::<Vec<_>>()),
                });
            }
            for ((request, answer), documents) in requests.into_iter().zip(answers).zip(documents) {
                let took = Took { all, part: all.mul_f64(request.keys.len() as f64 / keys as f64) };
                let documents = documents.map(|documents| (request.keys.into_iter().zip(documents).collect(), took));
                // A lane that is not waiting any more has been ended.
                let _ = answer.send(documents);
            }
        }
        Ok(())
    }

    /// Reads what all requests want, and says of each whether it was too much; what only those wanted is not there.
    async fn read<'a>(
        &self,
        collection: &CollectionName,
        requests: &'a [Request],
    ) -> Result<(HashMap<Place<'a>, Known>, Vec<bool>), Error> {
        let mut left = vec![Some(self.most_bytes); requests.len()];
        let mut wanted: HashMap<Place<'_>, (Place<'a>, Vec<usize>)> = HashMap::new();
        for (number, request) in requests.iter().enumerate() {
            for key in &request.keys {
                wanted.entry(place(key)).or_insert_with(|| (place(key), Vec::new())).1.push(number);
            }
        }
        let mut found = HashMap::with_capacity(wanted.len());
        if let Some((statement, _)) = self.statements.get(collection) {
            let (tenants, ids): (Vec<&str>, Vec<&str>) = wanted.keys().copied().unzip();
            let mut rows = std::pin::pin!(self.session.query_raw(statement, [&tenants, &ids]).await?);
            while let Some(row) = rows.try_next().await? {
                let Some((place, wanting)) = wanted.get(&(row.get(0), row.get(1))) else { continue };
                let data: &str = row.get(3);
                for &number in wanting {
                    left[number] = left[number].and_then(|left| left.checked_sub(data.len()));
                }
                if wanting.iter().any(|&number| left[number].is_some()) {
                    let owner = row.get::<_, Option<&str>>(4).map(Arc::from);
                    found.insert(*place, Known { version: row.get(2), data: Some(data.into()), owner });
                }
            }
        }
        Ok((found, left.iter().map(Option::is_none).collect()))
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

impl Waiting {
    /// What is to be served now: all of it, or what the quickest tenant wants.
    fn take(&mut self, together: bool) -> Vec<(Request, oneshot::Sender<Answer>)> {
        let ranks = std::mem::take(&mut self.ranks);
        let requests = std::mem::take(&mut self.requests);
        self.since = None;
        let quickest = ranks.iter().enumerate().min_by_key(|(_, rank)| **rank).map(|(index, _)| index);
        let tenant = quickest.and_then(|index| requests[index].0.tenant().cloned());
        let (mut taken, mut left) = (Vec::new(), Waiting::default());
        for (request, rank) in requests.into_iter().zip(ranks) {
            if together || request.0.tenant() == tenant.as_ref() {
                taken.push(request);
            } else {
                left.requests.push(request);
                left.ranks.push(rank);
                left.since = Some(Instant::now());
            }
        }
        *self = left;
        taken
    }
}

/// Which row a document is: its tenant and its id.
type Place<'a> = (&'a str, &'a str);

fn place(key: &DocumentKey) -> Place<'_> {
    (key.lane.tenant.as_str(), &key.id)
}

fn pairs<'a>(keys: &[&'a DocumentKey]) -> (Vec<&'a str>, Vec<&'a str>) {
    keys.iter().map(|key| (key.lane.tenant.as_str(), &*key.id)).unzip()
}
