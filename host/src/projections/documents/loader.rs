//! A loader of documents, which batches the reads of all lanes.
//!
//! A lane that needs documents queues a request and waits. The processor's loop calls
//! [`serve`](Loader::serve) when every running lane waits, or when the first has waited long
//! enough. One statement for each collection then reads all requested documents.
//!
//! - **Bound of a request.** The bytes of one request are bounded. They are counted as rows arrive,
//!   so documents over the bound are never kept in memory. The database does not send a single
//!   document that exceeds the bound. A document that the database cannot return fails only the
//!   requests that name it.
//! - **Bound of a tenant.** The bytes for one tenant in one batch are bounded too. Requests beyond
//!   that are deferred to the next batch, except for the tenant's first, so each batch answers some
//!   requests.
//!
//! A processor has two loaders: one for all tenants, and one for tenants whose reads are slow (the
//! module `slow`). The latter serves one tenant at a time: first those that are only suspected,
//! then by deadlines, which are sooner for quicker tenants. Each loader borrows a session for each
//! batch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::TryStreamExt;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, oneshot},
    time::{Duration, Instant},
};

use super::{DocumentKey, ReadError, cache::CommittedDocument, on, slow::ReadsAlone, table};
use crate::{
    db::{
        Db, Error, Session, Statement, describe, is_about_a_row,
        pool::{Borrower, Pool},
        types::ToSql,
    },
    model::ids::{CollectionName, TenantId},
};

/// Time for which quicker tenants may overtake a slow one, in multiples of the duration of its own
/// read.
const YIELD_FACTOR: u32 = 4;

/// Requests of suspected tenants that are served in a row while a slow one is overdue. 16: about
/// the time of one slow read.
const SUSPECTS_IN_A_ROW: usize = 16;

/// Time that the first request waits for others to join its batch.
const PATIENCE: Duration = Duration::from_millis(1);

/// Settings that make the planner look documents up by their key, even in a table that its
/// statistics show as empty.
const ONE_PLAN: &str = "set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set enable_bitmapscan = off; \
                        set plan_cache_mode = force_generic_plan";

/// A lane's request for documents of one collection.
pub(super) struct ReadRequest {
    collection: CollectionName,
    keys: Vec<DocumentKey>,
}

impl ReadRequest {
    fn tenant(&self) -> Option<&TenantId> {
        self.keys.first().map(|key| &key.lane.tenant)
    }

    pub(super) fn new(collection: CollectionName, keys: Vec<DocumentKey>) -> Self {
        ReadRequest { collection, keys }
    }
}

/// A pool of at most `most` sessions for reading documents, opened on demand.
pub fn sessions(db: &Db, most: usize) -> Arc<Pool<Session>> {
    let db = db.clone();
    Pool::new(most, move |purpose| {
        let db = db.clone();
        Box::pin(async move {
            let session = db.connect(&purpose).await?;
            session.batch_execute(ONE_PLAN).await?;
            Ok(session)
        })
    })
}

type ReadResult = Result<(Vec<(DocumentKey, CommittedDocument)>, ReadTime), ReadError>;

/// The duration of a read, without the wait for a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadTime {
    /// The duration of the whole statement.
    pub(super) all: Duration,
    /// The request's share of it, by its number of documents.
    pub(super) part: Duration,
    /// Whether the statement read documents of other tenants too.
    pub(super) shared: bool,
}

/// A loader of documents for all lanes of a processor.
pub struct Loader {
    sessions: Arc<Pool<Session>>,
    borrower: Borrower,
    /// The tenant that owns the collections; none if they are shared.
    owner: Option<TenantId>,
    statements: AsyncMutex<HashMap<CollectionName, Arc<ReadSql>>>,
    /// Maximum bytes of documents for one request, and for all requests of a tenant in one batch
    /// except its first.
    most_bytes: usize,
    /// Whether a batch contains the requests of all tenants.
    together: bool,
    queue: Mutex<ReadQueue>,
    requested: Notify,
}

/// The statements that read the documents of a collection, or their versions only.
struct ReadSql {
    read: String,
    versions: String,
}

/// The requests that wait for a batch.
#[derive(Default)]
struct ReadQueue {
    requests: Vec<(ReadRequest, oneshot::Sender<ReadResult>)>,
    /// The deadline of each request, by which tenants are served if a batch contains only one: see
    /// [`ReadQueue::push`]. Requests without one come first.
    deadlines: Vec<Option<Instant>>,
    /// When the first request was queued.
    since: Option<Instant>,
    /// The number of requests at which a batch is due.
    batch: usize,
    /// Suspected tenants that were served since the last slow one.
    suspects_in_a_row: usize,
}

impl Loader {
    /// A loader of collections that exist when it first reads.
    pub(super) fn new(
        sessions: Arc<Pool<Session>>,
        borrower: Borrower,
        owner: Option<TenantId>,
        most_bytes: usize,
        together: bool,
    ) -> Self {
        Loader {
            sessions,
            borrower,
            owner,
            statements: AsyncMutex::default(),
            most_bytes,
            together,
            queue: Mutex::default(),
            requested: Notify::new(),
        }
    }

    /// The tenant that owns the collections; none if they are shared.
    pub(super) fn owner(&self) -> Option<&TenantId> {
        self.owner.as_ref()
    }

    /// The statements for a collection.
    async fn sql(&self, session: &Session, collection: &CollectionName) -> Result<Arc<ReadSql>, Error> {
        let mut statements = self.statements.lock().await;
        if let Some(sql) = statements.get(collection) {
            return Ok(sql.clone());
        }
        let table = table(session, self.owner.as_ref(), collection).await?;
        let (read, versions) = (on(&table, include_str!("read.sql")), on(&table, include_str!("versions.sql")));
        let sql = Arc::new(ReadSql { read, versions });
        statements.insert(collection.clone(), sql.clone());
        Ok(sql)
    }

    fn queue(&self) -> MutexGuard<'_, ReadQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request and waits for its result: one document for each key, in order. `alone` says
    /// why the tenant must read alone; none if it may join the batch.
    pub(super) async fn load(&self, request: ReadRequest, alone: Option<ReadsAlone>) -> ReadResult {
        let (sender, wait) = oneshot::channel();
        let is_due = {
            let mut queue = self.queue();
            queue.push(request, sender, Instant::now(), alone);
            queue.requests.len() == 1 || queue.requests.len() >= queue.batch
        };
        // The requests in between change nothing, and each wake-up has a cost.
        if is_due {
            self.requested.notify_one();
        }
        // The sender is dropped only if the term has ended, and this lane with it.
        wait.await.unwrap_or_else(|_| Err(ReadError::Lost("the term has ended".into())))
    }

    /// Waits until a batch is due: all of the `running` lanes wait, or the first has waited long
    /// enough. Cancel safe.
    pub async fn due(&self, running: usize) {
        loop {
            let (is_due, since) = {
                let mut queue = self.queue();
                queue.batch = if self.together { running.max(1) } else { 1 };
                (queue.requests.len() >= queue.batch, queue.since)
            };
            if is_due {
                return;
            }
            match since {
                None => self.requested.notified().await,
                Some(since) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(since + PATIENCE) => return,
                        () = self.requested.notified() => {}
                    }
                }
            }
        }
    }

    /// Reads the documents of a batch, with one statement for each collection, and sends the
    /// results.
    pub async fn serve(&self) -> Result<(), ReadError> {
        let requests = self.queue().take(self.together, Instant::now());
        let mut by_collection: BTreeMap<CollectionName, Vec<_>> = BTreeMap::new();
        for (request, sender) in requests {
            by_collection.entry(request.collection.clone()).or_default().push((request, sender));
        }
        for (collection, requests) in by_collection {
            let (requests, senders): (Vec<ReadRequest>, Vec<_>) = requests.into_iter().unzip();
            let read = self.read(&collection, &requests).await;
            let keys = requests.iter().map(|request| request.keys.len()).sum::<usize>().max(1);
            let shared = requests.windows(2).any(|pair| pair[0].tenant() != pair[1].tenant());
            let ReadBatch { found, outcomes, took: all, .. } =
                read.map_err(|error| ReadError::Lost(describe(&error)))?;
            let mut documents = Vec::with_capacity(requests.len());
            for (request, outcome) in requests.iter().zip(outcomes) {
                let document =
                    |key: &DocumentKey| found.get(&row_key(key)).cloned().unwrap_or_else(CommittedDocument::absent);
                documents.push(match outcome {
                    RequestOutcome::Fits(_) => Some(Ok(request.keys.iter().map(document).collect::<Vec<_>>())),
                    RequestOutcome::Failed(why) => Some(Err(why)),
                    RequestOutcome::Deferred => None,
                });
            }
            let mut deferred = Vec::new();
            for ((request, sender), documents) in requests.into_iter().zip(senders).zip(documents) {
                let Some(documents) = documents else {
                    deferred.push((request, sender));
                    continue;
                };
                let time = ReadTime { all, part: all.mul_f64(request.keys.len() as f64 / keys as f64), shared };
                let documents = documents.map(|documents| (request.keys.into_iter().zip(documents).collect(), time));
                // A lane that no longer waits has ended.
                let _ = sender.send(documents);
            }
            self.queue().put_back(deferred, Instant::now());
        }
        Ok(())
    }

    /// Reads the documents of all requests, and decides which requests can be answered. Leaves out
    /// documents that only unanswered requests name.
    async fn read<'a>(&self, collection: &CollectionName, requests: &'a [ReadRequest]) -> Result<ReadBatch<'a>, Error> {
        let mut wanted: HashMap<RowKey<'a>, Vec<usize>> = HashMap::new();
        for (number, request) in requests.iter().enumerate() {
            for key in &request.keys {
                wanted.entry(row_key(key)).or_default().push(number);
            }
        }
        let session = self.sessions.lend(&self.borrower).await?;
        let statement = session.prepared(&self.sql(&session, collection).await?.read).await?;
        let most = self.most_bytes;
        // The wait for a session does not count: it says nothing about these documents.
        let began = Instant::now();
        let mut batch = ReadBatch {
            took: Duration::ZERO,
            found: HashMap::with_capacity(wanted.len()),
            outcomes: vec![RequestOutcome::Fits(most); requests.len()],
            tenants: of_tenants(requests, most),
        };
        let mut parts = vec![wanted.iter().map(|(row, numbers)| (*row, &**numbers)).collect::<Vec<_>>()];
        // A part with a damaged row is read again in halves, until the row is found.
        while let Some(part) = parts.pop() {
            let before = (batch.outcomes.clone(), batch.tenants.clone());
            let Err(error) = self.read_part(&session, &statement, collection, &part, &mut batch).await else {
                continue;
            };
            if !is_about_a_row(&error) {
                return Err(error);
            }
            (batch.outcomes, batch.tenants) = before;
            match &part[..] {
                [((_, id), numbers)] => batch.fail(numbers, || unreadable(collection, id, describe(&error))),
                several => parts.extend(several.chunks(several.len().div_ceil(2)).map(<[_]>::to_vec)),
            }
        }
        session.give_back();
        batch.took = began.elapsed();
        Ok(batch)
    }

    /// Reads some documents, each with the numbers of the requests that name it.
    async fn read_part<'a>(
        &self,
        session: &Session,
        statement: &Statement,
        collection: &CollectionName,
        part: &[(RowKey<'a>, &[usize])],
        batch: &mut ReadBatch<'a>,
    ) -> Result<(), Error> {
        let by_key: HashMap<RowKey<'_>, (RowKey<'a>, &[usize])> =
            part.iter().map(|&(key, numbers)| (key, (key, numbers))).collect();
        let (tenants, ids): (Vec<&str>, Vec<&str>) = part.iter().map(|(key, _)| *key).unzip();
        let most = self.most_bytes as i64;
        let params: [&(dyn ToSql + Sync); 3] = [&tenants, &ids, &most];
        let mut rows = std::pin::pin!(session.query_raw(statement, params).await?);
        while let Some(row) = rows.try_next().await? {
            let Some(&(key, numbers)) = by_key.get(&(row.get(0), row.get(1))) else { continue };
            let Some(data) = row.get::<_, Option<&str>>(3) else {
                let why = format!(
                    "its text has {} bytes, more than the {} MiB of processor.read-mib",
                    row.get::<_, i64>(5),
                    self.most_bytes >> 20
                );
                batch.fail(numbers, || unreadable(collection, key.1, why.clone()));
                continue;
            };
            if batch.count(key.0, numbers, data.len(), self.most_bytes) {
                let owner = row.get::<_, Option<&str>>(4).map(Arc::from);
                let document = CommittedDocument { version: row.get(2), data: Some(data.into()), owner };
                batch.found.insert(key, document);
            }
        }
        Ok(())
    }

    /// Reads the versions and owners of documents that are written without having been read.
    pub(super) async fn versions(
        &self,
        collection: &CollectionName,
        keys: Vec<DocumentKey>,
    ) -> Result<HashMap<DocumentKey, CommittedDocument>, Error> {
        let session = self.sessions.lend(&self.borrower).await?;
        let statement = session.prepared(&self.sql(&session, collection).await?.versions).await?;
        let (tenants, ids): (Vec<&str>, Vec<&str>) = keys.iter().map(row_key).unzip();
        let rows = session.query(&statement, &[&tenants, &ids]).await?;
        session.give_back();
        let found: HashMap<RowKey<'_>, (i64, Option<&str>)> =
            rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect();
        let committed = |key: &DocumentKey| {
            let (version, owner) = found.get(&row_key(key)).copied().unwrap_or((0, None));
            (key.clone(), CommittedDocument { version, data: None, owner: owner.map(Arc::from) })
        };
        Ok(keys.iter().map(committed).collect())
    }
}

impl ReadQueue {
    /// Queues a request. The deadline of a slow tenant is a multiple of its reads' duration: a
    /// quick tenant is served earlier, and no tenant waits forever. A suspected tenant has no
    /// deadline and is served first.
    fn push(
        &mut self,
        request: ReadRequest,
        sender: oneshot::Sender<ReadResult>,
        now: Instant,
        alone: Option<ReadsAlone>,
    ) {
        self.since.get_or_insert(now);
        self.requests.push((request, sender));
        self.deadlines.push(match alone {
            Some(ReadsAlone::Slow(took)) => Some(now + took * YIELD_FACTOR),
            Some(ReadsAlone::Suspected) | None => None,
        });
    }

    /// Queues deferred requests again, before later ones of their tenants.
    fn put_back(&mut self, deferred: Vec<(ReadRequest, oneshot::Sender<ReadResult>)>, now: Instant) {
        if !deferred.is_empty() {
            self.since = Some(now);
            self.deadlines.splice(0..0, deferred.iter().map(|_| Some(now)));
            self.requests.splice(0..0, deferred);
        }
    }

    /// Takes the requests of the next batch: all of them, or those of one tenant.
    fn take(&mut self, together: bool, now: Instant) -> Vec<(ReadRequest, oneshot::Sender<ReadResult>)> {
        let (requests, deadlines) = (std::mem::take(&mut self.requests), std::mem::take(&mut self.deadlines));
        self.since = None;
        // If the whole database is slow, there are always suspected tenants.
        let is_overdue = |deadline: &Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let slow_first = self.suspects_in_a_row >= SUSPECTS_IN_A_ROW && deadlines.iter().any(is_overdue);
        let candidates = requests.iter().zip(&deadlines).filter(|(_, deadline)| !slow_first || deadline.is_some());
        let first = candidates.min_by_key(|(_, deadline)| **deadline);
        let is_suspected = first.is_some_and(|(_, deadline)| deadline.is_none());
        self.suspects_in_a_row = if is_suspected { self.suspects_in_a_row + 1 } else { 0 };
        let tenant = first.and_then(|((request, _), _)| request.tenant().cloned());
        let mut taken = Vec::new();
        for (request, deadline) in requests.into_iter().zip(deadlines) {
            if together || request.0.tenant() == tenant.as_ref() {
                taken.push(request);
            } else {
                self.requests.push(request);
                self.deadlines.push(deadline);
                self.since = Some(Instant::now());
            }
        }
        taken
    }
}

/// The documents read for several requests, and the outcome of each request.
struct ReadBatch<'a> {
    /// The duration of the reads.
    took: Duration,
    found: HashMap<RowKey<'a>, CommittedDocument>,
    /// One for each request.
    outcomes: Vec<RequestOutcome>,
    /// The number of each tenant's first request, and the bytes left for all its requests.
    tenants: HashMap<&'a str, (usize, usize)>,
}

/// The outcome of a request.
#[derive(Clone, Debug)]
enum RequestOutcome {
    /// It is answered; the bytes left for it.
    Fits(usize),
    /// It cannot be answered.
    Failed(ReadError),
    /// A later batch answers it.
    Deferred,
}

fn of_tenants(requests: &[ReadRequest], most: usize) -> HashMap<&str, (usize, usize)> {
    let mut tenants = HashMap::new();
    for (number, request) in requests.iter().enumerate() {
        if let Some(key) = request.keys.first() {
            tenants.entry(key.lane.tenant.as_str()).or_insert((number, most));
        }
    }
    tenants
}

impl ReadBatch<'_> {
    /// Counts a tenant's document for the requests that name it. Returns whether any of them still
    /// fits.
    fn count(&mut self, tenant: &str, numbers: &[usize], bytes: usize, most: usize) -> bool {
        let mut needed = false;
        for &number in numbers {
            let RequestOutcome::Fits(left) = self.outcomes[number] else { continue };
            let Some(left) = left.checked_sub(bytes) else {
                self.outcomes[number] = RequestOutcome::Failed(ReadError::TooMuch(most));
                continue;
            };
            self.outcomes[number] = RequestOutcome::Fits(left);
            let Some((first, of_tenant)) = self.tenants.get_mut(tenant) else { continue };
            match of_tenant.checked_sub(bytes) {
                Some(left) => *of_tenant = left,
                None if number == *first => *of_tenant = 0,
                None => self.outcomes[number] = RequestOutcome::Deferred,
            }
            needed |= matches!(self.outcomes[number], RequestOutcome::Fits(_));
        }
        needed
    }

    /// Fails the requests that name a document.
    fn fail(&mut self, numbers: &[usize], why: impl Fn() -> ReadError) {
        for &number in numbers {
            self.outcomes[number] = RequestOutcome::Failed(why());
        }
    }
}

fn unreadable(collection: &CollectionName, id: &str, why: String) -> ReadError {
    ReadError::Document { collection: collection.clone(), id: id.to_string(), why }
}

/// The key of a document's row: its tenant and its id.
type RowKey<'a> = (&'a str, &'a str);

fn row_key(key: &DocumentKey) -> RowKey<'_> {
    (key.lane.tenant.as_str(), &key.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::LaneKey;

    /// Queues a request of this tenant `after` milliseconds; its reads take `slow` milliseconds, or
    /// it is only suspected.
    fn request(queue: &mut ReadQueue, began: Instant, (name, after, slow): (&str, u64, Option<u64>)) {
        let tenant = TenantId::parse(name).unwrap();
        let lane = LaneKey { key: tenant.as_shared(), tenant };
        let collection = CollectionName::parse("carts").unwrap();
        let key = DocumentKey { id: "a".into(), lane, collection: collection.clone() };
        let request = ReadRequest::new(collection, vec![key]);
        let ms = Duration::from_millis;
        let alone = slow.map_or(ReadsAlone::Suspected, |took| ReadsAlone::Slow(ms(took)));
        queue.push(request, oneshot::channel().0, began + ms(after), Some(alone));
    }

    #[test]
    fn quick_tenants_are_served_first_and_slow_ones_do_not_starve() {
        let (mut queue, began) = (ReadQueue::default(), Instant::now());
        let slow = [("slow", 0, 100), ("quick", 50, 20), ("quick", 60, 20), ("quicker", 60, 5), ("late", 390, 20)];
        for (name, after, took) in slow {
            request(&mut queue, began, (name, after, Some(took)));
        }
        // All others are overdue by now.
        request(&mut queue, began, ("suspected", 9_000, None));
        let mut order = Vec::new();
        while !queue.requests.is_empty() {
            let taken = queue.take(false, began + Duration::from_secs(10));
            order.push((taken[0].0.tenant().unwrap().to_string(), taken.len()));
            assert_eq!(queue.requests.len(), queue.deadlines.len());
            assert_eq!(queue.since.is_some(), !queue.requests.is_empty());
        }
        let order: Vec<(&str, usize)> = order.iter().map(|(tenant, requests)| (&**tenant, *requests)).collect();
        assert_eq!(order, [("suspected", 1), ("quicker", 1), ("quick", 2), ("slow", 1), ("late", 1)]);
    }

    #[test]
    fn suspected_tenants_do_not_starve_a_slow_one() {
        let (mut queue, began) = (ReadQueue::default(), Instant::now());
        request(&mut queue, began, ("slow", 0, Some(100)));
        let mut served = 0;
        loop {
            request(&mut queue, began, (&format!("suspected-{served}"), 500, None));
            let taken = queue.take(false, began + Duration::from_secs(1));
            if taken[0].0.tenant().unwrap().as_str() == "slow" {
                break;
            }
            served += 1;
        }
        assert_eq!(served, SUSPECTS_IN_A_ROW);
    }

    #[test]
    fn deferred_requests_keep_their_order_and_do_not_overtake_other_tenants() {
        let (mut queue, began) = (ReadQueue::default(), Instant::now());
        for (name, took) in [("greedy", 20), ("greedy", 20), ("greedy", 20), ("other", 30)] {
            request(&mut queue, began, (name, 0, Some(took)));
        }
        let mut taken = queue.take(false, began);
        assert_eq!(taken.len(), 3);
        let (_, sender) = taken.remove(0);
        drop(sender);
        let keys: Vec<*const DocumentKey> = taken.iter().map(|(request, _)| request.keys.as_ptr()).collect();
        // The read took longer than the other tenant's deadline.
        queue.put_back(taken, began + Duration::from_secs(1));
        assert_eq!(queue.take(false, began)[0].0.tenant().unwrap().as_str(), "other");
        let again: Vec<*const DocumentKey> =
            queue.take(false, began).iter().map(|(request, _)| request.keys.as_ptr()).collect();
        assert_eq!(again, keys);
    }

    #[test]
    fn a_tenants_bytes_in_a_batch_are_bounded_except_for_its_first_request() {
        let most = 10;
        let tenants = HashMap::from([("t", (0, most)), ("u", (3, most))]);
        let took = Duration::ZERO;
        let mut batch =
            ReadBatch { took, found: HashMap::new(), outcomes: vec![RequestOutcome::Fits(most); 4], tenants };
        // The tenant's bytes are used up by its second request. The first request may still use its
        // own.
        let counts = [("t", 1, 6), ("t", 1, 4), ("t", 2, 1), ("t", 0, 6), ("t", 0, 4), ("t", 0, 1), ("u", 3, 10)];
        let kept = counts.map(|(tenant, number, bytes)| batch.count(tenant, &[number], bytes, most));
        assert_eq!(kept, [true, true, false, true, true, false, true]);
        let outcomes = batch.outcomes;
        assert!(matches!(outcomes[0], RequestOutcome::Failed(ReadError::TooMuch(_))), "{outcomes:?}");
        let others = [RequestOutcome::Fits(0), RequestOutcome::Deferred, RequestOutcome::Fits(0)];
        assert_eq!(format!("{:?}", &outcomes[1..]), format!("{others:?}"));
    }

    #[test]
    fn a_common_batch_takes_all_requests() {
        let (mut queue, began) = (ReadQueue::default(), Instant::now());
        for read in [("slow", 0, Some(100)), ("quick", 50, None)] {
            request(&mut queue, began, read);
        }
        assert_eq!(queue.take(true, began).len(), 2);
        assert!(queue.requests.is_empty() && queue.since.is_none());
    }
}
