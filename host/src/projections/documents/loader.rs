//! Where the reads of all lanes meet.
//!
//! A lane that misses documents puts down what it wants and waits. Whoever drives the processor lets the loader [`serve`](Loader::serve) when every
//! running lane waits, or the first has waited long enough; then all of it is read with one statement a collection.
//!
//! What one lane asks for at once is bounded in bytes. Rows are counted as they arrive, so what is too much is never held, and a
//! document that is too large alone is not sent. One that the database cannot return concerns those who asked for it, and nobody else.
//!
//! What one tenant is answered with at once is bounded too: requests that would go beyond it are put off to the next
//! reading, except for the tenant's first, so that each reading answers some.
//!
//! A processor has two of them, and each borrows a session whenever it has something to read: one for all, and one for tenants whose reads are
//! slow, which serves one tenant at a time, the quickest first. [`slow`](super::slow) says who those are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::TryStreamExt;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, oneshot},
    time::{Duration, Instant},
};

use super::{DocumentKey, ReadError, cache::Known, on, table};
use crate::{
    db::{
        Db, Error, Session, Statement, describe, is_about_a_row,
        pool::{Borrower, Pool},
        types::ToSql,
    },
    model::ids::{CollectionName, TenantId},
};

/// For how many of its own reads' times a tenant lets others go before it.
const PLACES: u32 = 4;

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
    sessions: Arc<Pool<Session>>,
    borrower: Borrower,
    /// Whose the collections are; none where they are everybody's.
    owner: Option<TenantId>,
    statements: AsyncMutex<HashMap<CollectionName, Arc<ReadSql>>>,
    /// Bytes of documents that one request may be answered with, and all requests of a tenant in one reading but for
    /// its first.
    most_bytes: usize,
    /// Whether tenants are served together, so that reads meet.
    together: bool,
    waiting: Mutex<Waiting>,
    asked: Notify,
}

/// The statements that read a collection's documents, and their versions.
struct ReadSql {
    read: String,
    versions: String,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<(Request, oneshot::Sender<Answer>)>,
    /// The order in which tenants are served where they are not served together: see [`Waiting::push`]. As long as `requests`.
    places: Vec<Instant>,
    since: Option<Instant>,
}

impl Loader {
    /// Reads collections that exist by then.
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
            waiting: Mutex::default(),
            asked: Notify::new(),
        }
    }

    /// Whose the collections are.
    pub(super) fn owner(&self) -> Option<&TenantId> {
        self.owner.as_ref()
    }

    /// The statements on a collection.
    async fn sql(&self, session: &Session, collection: &CollectionName) -> Result<Arc<ReadSql>, Error> {
        let mut known = self.statements.lock().await;
        if let Some(sql) = known.get(collection) {
            return Ok(sql.clone());
        }
        let table = table(session, self.owner.as_ref(), collection).await?;
        let (read, versions) = (on(&table, include_str!("read.sql")), on(&table, include_str!("versions.sql")));
        let sql = Arc::new(ReadSql { read, versions });
        known.insert(collection.clone(), sql.clone());
        Ok(sql)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request down and waits for its answer: one document for each key, in order. `rank` is how long reads of its tenant take.
    pub(super) async fn load(&self, request: Request, rank: Duration) -> Answer {
        let (answer, wait) = oneshot::channel();
        self.waiting().push(request, answer, Instant::now(), rank);
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
            let Read { found, left, .. } = read.map_err(|error| ReadError::Lost(describe(&error)))?;
            let mut documents = Vec::with_capacity(requests.len());
            for (request, left) in requests.iter().zip(left) {
                let document = |key: &DocumentKey| found.get(&place(key)).cloned().unwrap_or_else(Known::absent);
                documents.push(match left {
                    Left::Bytes(_) => Some(Ok(request.keys.iter().map(document).collect::<Vec<_>>())),
                    Left::Refused(why) => Some(Err(why)),
                    Left::PutOff => None,
                });
            }
            for ((request, answer), documents) in requests.into_iter().zip(answers).zip(documents) {
                let Some(documents) = documents else {
                    self.waiting().put_off(request, answer);
                    continue;
                };
                let took = Took { all, part: all.mul_f64(request.keys.len() as f64 / keys as f64) };
                let documents = documents.map(|documents| (request.keys.into_iter().zip(documents).collect(), took));
                // A lane that is not waiting any more has been ended.
                let _ = answer.send(documents);
            }
        }
        Ok(())
    }

    /// Reads what all requests want, and says of each whether it may be answered; what only others wanted is not there.
    async fn read<'a>(&self, collection: &CollectionName, requests: &'a [Request]) -> Result<Read<'a>, Error> {
        let mut wanted: HashMap<Place<'a>, Vec<usize>> = HashMap::new();
        for (number, request) in requests.iter().enumerate() {
            for key in &request.keys {
                wanted.entry(place(key)).or_default().push(number);
            }
        }
        let session = self.sessions.lend(&self.borrower).await?;
        let statement = session.prepared(&self.sql(&session, collection).await?.read).await?;
        let most = self.most_bytes;
        let mut read = Read {
            found: HashMap::with_capacity(wanted.len()),
            left: vec![Left::Bytes(most); requests.len()],
            tenants: of_tenants(requests, most),
        };
        let mut parts = vec![wanted.iter().map(|(place, wanting)| (*place, &**wanting)).collect::<Vec<_>>()];
        while let Some(part) = parts.pop() {
            let before = (read.left.clone(), read.tenants.clone());
            let Err(error) = self.read_part(&session, &statement, collection, &part, &mut read).await else {
                continue;
            };
            if !is_about_a_row(&error) {
                return Err(error);
            }
            (read.left, read.tenants) = before;
            match &part[..] {
                [((_, id), wanting)] => read.refuse(wanting, || unreadable(collection, id, describe(&error))),
                several => parts.extend(several.chunks(several.len().div_ceil(2)).map(<[_]>::to_vec)),
            }
        }
        session.give_back();
        Ok(read)
    }

    /// Reads some documents, each with the numbers of the requests that want it.
    async fn read_part<'a>(
        &self,
        session: &Session,
        statement: &Statement,
        collection: &CollectionName,
        part: &[(Place<'a>, &[usize])],
        read: &mut Read<'a>,
    ) -> Result<(), Error> {
        let by_place: HashMap<Place<'_>, (Place<'a>, &[usize])> =
            part.iter().map(|&(place, wanting)| (place, (place, wanting))).collect();
        let (tenants, ids): (Vec<&str>, Vec<&str>) = part.iter().map(|(place, _)| *place).unzip();
        let most = self.most_bytes as i64;
        let params: [&(dyn ToSql + Sync); 3] = [&tenants, &ids, &most];
        let mut rows = std::pin::pin!(session.query_raw(statement, params).await?);
        while let Some(row) = rows.try_next().await? {
            let Some(&(place, wanting)) = by_place.get(&(row.get(0), row.get(1))) else { continue };
            let Some(data) = row.get::<_, Option<&str>>(3) else {
                let why = format!(
                    "PostgreSQL prints it with {} bytes, more than the {} MiB of processor.read-mib",
                    row.get::<_, i64>(5),
                    self.most_bytes >> 20
                );
                read.refuse(wanting, || unreadable(collection, place.1, why.clone()));
                continue;
            };
            if read.count(place.0, wanting, data.len(), self.most_bytes) {
                let owner = row.get::<_, Option<&str>>(4).map(Arc::from);
                read.found.insert(place, Known { version: row.get(2), data: Some(data.into()), owner });
            }
        }
        Ok(())
    }

    /// What must be known of documents that are written without having been read. Their text is not read.
    pub(super) async fn versions(
        &self,
        collection: &CollectionName,
        keys: Vec<DocumentKey>,
    ) -> Result<HashMap<DocumentKey, Known>, Error> {
        let session = self.sessions.lend(&self.borrower).await?;
        let statement = session.prepared(&self.sql(&session, collection).await?.versions).await?;
        let (tenants, ids) = pairs(&keys.iter().collect::<Vec<_>>());
        let rows = session.query(&statement, &[&tenants, &ids]).await?;
        session.give_back();
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
    /// Takes a request of a tenant whose reads take as long as `rank`. It is served before whoever asks later than some such times from now: the sooner the
    /// quicker its tenant is, and none has to wait for ever.
    fn push(&mut self, request: Request, answer: oneshot::Sender<Answer>, now: Instant, rank: Duration) {
        self.since.get_or_insert(now);
        self.requests.push((request, answer));
        self.places.push(now + rank * PLACES);
    }

    /// Takes a request back that was not answered: it is the first to be served next.
    fn put_off(&mut self, request: Request, answer: oneshot::Sender<Answer>) {
        let now = Instant::now();
        self.since = Some(now);
        let before = self.places.iter().min().copied().unwrap_or(now);
        self.requests.insert(0, (request, answer));
        self.places.insert(0, before.min(now));
    }

    /// What is to be served now: all of it, or what one tenant wants.
    fn take(&mut self, together: bool) -> Vec<(Request, oneshot::Sender<Answer>)> {
        let Waiting { requests, places, .. } = std::mem::take(self);
        let first = requests.iter().zip(&places).min_by_key(|(_, place)| **place);
        let tenant = first.and_then(|((request, _), _)| request.tenant().cloned());
        let mut taken = Vec::new();
        for (request, place) in requests.into_iter().zip(places) {
            if together || request.0.tenant() == tenant.as_ref() {
                taken.push(request);
            } else {
                self.requests.push(request);
                self.places.push(place);
                self.since = Some(Instant::now());
            }
        }
        taken
    }
}

/// What was read for several requests.
struct Read<'a> {
    found: HashMap<Place<'a>, Known>,
    /// Of each request.
    left: Vec<Left>,
    /// Of each tenant its first request, and how many bytes all of them may still be answered with.
    tenants: HashMap<&'a str, (usize, usize)>,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
enum Left {
    /// It may be answered with so many bytes more.
    Bytes(usize),
    /// It cannot be answered.
    Refused(ReadError),
    /// It is answered by a later reading.
    PutOff,
}

fn of_tenants(requests: &[Request], most: usize) -> HashMap<&str, (usize, usize)> {
    let mut tenants = HashMap::new();
    for (number, request) in requests.iter().enumerate() {
        if let Some(key) = request.keys.first() {
            tenants.entry(key.lane.tenant.as_str()).or_insert((number, most));
        }
    }
    tenants
}

impl Read<'_> {
    /// Counts a document of a tenant for the requests that want it; whether any of them can be answered.
    fn count(&mut self, tenant: &str, wanting: &[usize], bytes: usize, most: usize) -> bool {
        let mut wanted = false;
        for &number in wanting {
            let Left::Bytes(left) = self.left[number] else { continue };
            let Some(left) = left.checked_sub(bytes) else {
                self.left[number] = Left::Refused(ReadError::TooMuch(most));
                continue;
            };
            self.left[number] = Left::Bytes(left);
            let Some((first, of_tenant)) = self.tenants.get_mut(tenant) else { continue };
            match of_tenant.checked_sub(bytes) {
                Some(left) => *of_tenant = left,
                None if number == *first => *of_tenant = 0,
                None => self.left[number] = Left::PutOff,
            }
            wanted |= matches!(self.left[number], Left::Bytes(_));
        }
        wanted
    }

    /// Refuses the requests that want a document.
    fn refuse(&mut self, wanting: &[usize], why: impl Fn() -> ReadError) {
        for &number in wanting {
            self.left[number] = Left::Refused(why());
        }
    }
}

fn unreadable(collection: &CollectionName, id: &str, why: String) -> ReadError {
    ReadError::Document { collection: collection.clone(), id: id.to_string(), why }
}

/// Which row a document is: its tenant and its id.
type Place<'a> = (&'a str, &'a str);

fn place(key: &DocumentKey) -> Place<'_> {
    (key.lane.tenant.as_str(), &key.id)
}

fn pairs<'a>(keys: &[&'a DocumentKey]) -> (Vec<&'a str>, Vec<&'a str>) {
    keys.iter().map(|key| (key.lane.tenant.as_str(), &*key.id)).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::LaneKey;

    /// Asked for after so many milliseconds, by a tenant whose reads take so many.
    fn ask(waiting: &mut Waiting, began: Instant, (name, after, rank): (&str, u64, u64)) {
        let tenant = TenantId::parse(name).unwrap();
        let lane = LaneKey { key: tenant.as_shared(), tenant };
        let collection = CollectionName::parse("carts").unwrap();
        let key = DocumentKey { id: "a".into(), lane, collection: collection.clone() };
        let request = Request::new(collection, vec![key]);
        let ms = Duration::from_millis;
        waiting.push(request, oneshot::channel().0, began + ms(after), ms(rank));
    }

    #[test]
    fn apart_the_quicker_go_first_and_the_slowest_not_last_for_ever() {
        let (mut waiting, began) = (Waiting::default(), Instant::now());
        for asked in [("slow", 0, 100), ("quick", 50, 20), ("quick", 60, 20), ("quicker", 60, 5), ("late", 390, 20)] {
            ask(&mut waiting, began, asked);
        }
        let mut order = Vec::new();
        while !waiting.requests.is_empty() {
            let taken = waiting.take(false);
            order.push((taken[0].0.tenant().unwrap().to_string(), taken.len()));
            assert_eq!(waiting.requests.len(), waiting.places.len());
            assert_eq!(waiting.since.is_some(), !waiting.requests.is_empty());
        }
        let order: Vec<(&str, usize)> = order.iter().map(|(tenant, requests)| (&**tenant, *requests)).collect();
        assert_eq!(order, [("quicker", 1), ("quick", 2), ("slow", 1), ("late", 1)]);
    }

    #[test]
    fn what_a_tenant_is_answered_with_at_once_is_bounded_but_for_its_first_request() {
        let most = 10;
        let tenants = HashMap::from([("t", (0, most)), ("u", (3, most))]);
        let mut read = Read { found: HashMap::new(), left: vec![Left::Bytes(most); 4], tenants };
        // Of its second request the second document finds no room; the first request has all that one may have.
        let counts = [("t", 1, 6), ("t", 1, 4), ("t", 2, 1), ("t", 0, 6), ("t", 0, 4), ("t", 0, 1), ("u", 3, 10)];
        let kept = counts.map(|(tenant, number, bytes)| read.count(tenant, &[number], bytes, most));
        assert_eq!(kept, [true, true, false, true, true, false, true]);
        assert!(matches!(read.left[0], Left::Refused(ReadError::TooMuch(_))), "{:?}", read.left);
        assert!(matches!(read.left[1..], [Left::Bytes(0), Left::PutOff, Left::Bytes(0)]), "{:?}", read.left);
    }

    #[test]
    fn together_all_go_at_once() {
        let (mut waiting, began) = (Waiting::default(), Instant::now());
        for asked in [("slow", 0, 100), ("quick", 50, 0)] {
            ask(&mut waiting, began, asked);
        }
        assert_eq!(waiting.take(true).len(), 2);
        assert!(waiting.requests.is_empty() && waiting.since.is_none());
    }
}
