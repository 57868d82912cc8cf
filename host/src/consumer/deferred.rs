//! The loader of deferred data: the data of large events, which a page leaves out. It loads the
//! data just before a lane handles the events.
//!
//! The host reads one load at a time. The loads in memory are bounded for the whole host: at most
//! 16 at once, one for each tenant, each of a few MiB. An event over the store's size limit is
//! never loaded; its lane gets the reason instead.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use crate::{
    model::{
        event::Event,
        handler::{BoxFuture, Reason},
        ids::TenantId,
        loading::{LoadEvents, Loaded},
    },
    source::{Body, Borrower, EventSource, SourceError, SourcePool},
};

/// Bytes of one load, unless a single event has more. 4 MiB: a few milliseconds of database time,
/// and as much as one event may have by default.
const LOAD_BYTES: usize = 4 << 20;
/// Loads in memory at once, each until its call has ended. 16: up to 64 MiB, and up to 15 tenants
/// with long calls do not delay the large events of others.
const LOADS: usize = 16;

/// The loader of deferred data for all lanes of a host.
pub(super) struct DeferredEvents {
    sources: Arc<SourcePool>,
    borrower: Borrower,
    /// Held while a load is read.
    loading: AsyncMutex<()>,
    room: Arc<Semaphore>,
    /// One load at a time for each tenant.
    tenants: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// The outcome of a load: data, or the reason why the database could not return the first event's
/// data.
enum LoadOutcome {
    Bodies(Vec<Body>),
    Unreadable(String),
}

impl DeferredEvents {
    pub(super) fn new(sources: Arc<SourcePool>) -> Self {
        DeferredEvents {
            sources,
            borrower: Borrower::host("large events"),
            loading: AsyncMutex::default(),
            room: Arc::new(Semaphore::new(LOADS)),
            tenants: Mutex::default(),
        }
    }

    fn of_tenant(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = tenants.get(tenant).and_then(Weak::upgrade) {
            return semaphore;
        }
        tenants.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(1));
        tenants.insert(tenant.clone(), Arc::downgrade(&semaphore));
        semaphore
    }

    /// Loads the first of a lane's events with their data, within the bounds of the host and of the
    /// tenant.
    async fn load_first(&self, tenant: &TenantId, events: &[Arc<Event>]) -> Result<Loaded, SourceError> {
        let positions: Vec<i64> = events.iter().filter(|e| e.deferred.is_some()).map(|e| e.position).collect();
        // Neither semaphore is ever closed. The tenant's comes first, so a tenant that waits for
        // its own load takes no permit from others.
        let permit = self.of_tenant(tenant).acquire_owned().await.ok();
        let room = self.room.clone().acquire_owned().await.ok();
        let loading = self.loading.lock().await;
        let mut source = self.sources.lend(&self.borrower).await?;
        let began = Instant::now();
        let outcome = load(&mut **source, &positions).await?;
        source.give_back();
        drop(loading);
        let (events, unread) = ready_events(events, outcome);
        Ok(Loaded::new(events, unread, began.elapsed(), (permit, room)))
    }
}

impl LoadEvents for DeferredEvents {
    fn load<'a>(&'a self, tenant: &'a TenantId, events: &'a [Arc<Event>]) -> BoxFuture<'a, Result<Loaded, String>> {
        Box::pin(async move { self.load_first(tenant, events).await.map_err(|error| error.to_string()) })
    }
}

/// Loads the data of the events at these positions: of as many as fit into one load.
async fn load(source: &mut dyn EventSource, positions: &[i64]) -> Result<LoadOutcome, SourceError> {
    match source.load(positions, LOAD_BYTES, None).await {
        Err(error) if error.is_about_a_row() => {}
        bodies => return bodies.map(LoadOutcome::Bodies),
    }
    // One row is damaged. Each attempt loads one event, until the damaged one is the first.
    let first = positions.get(..1).unwrap_or_default();
    match source.load(first, LOAD_BYTES, None).await {
        Err(error) if error.is_about_a_row() => Ok(LoadOutcome::Unreadable(error.to_string())),
        bodies => bodies.map(LoadOutcome::Bodies),
    }
}

/// The events with their data, up to the first whose data is missing. If that data cannot be read,
/// also the reason.
fn ready_events(events: &[Arc<Event>], outcome: LoadOutcome) -> (Vec<Arc<Event>>, Option<Reason>) {
    let (bodies, unreadable) = match outcome {
        LoadOutcome::Bodies(bodies) => (bodies, None),
        LoadOutcome::Unreadable(why) => (Vec::new(), Some(why)),
    };
    let mut bodies: HashMap<i64, Body> = bodies.into_iter().map(|body| (body.position, body)).collect();
    let mut ready = Vec::with_capacity(events.len());
    for event in events {
        if event.deferred.is_none() {
            ready.push(event.clone());
            continue;
        }
        let body = match (bodies.remove(&event.position), &unreadable) {
            (Some(body), _) => body,
            (None, Some(why)) => return (ready, Some(unreadable_event(event, why))),
            (None, None) => return (ready, None),
        };
        match body.texts {
            Some((data, metadata)) => {
                ready.push(Arc::new(Event { data, metadata, deferred: None, ..Event::clone(event) }));
            }
            None => return (ready, Some(too_large(event, body.bytes, body.most))),
        }
    }
    (ready, None)
}

fn too_large(event: &Event, bytes: u64, most: u64) -> Reason {
    let message = format!(
        "the event `{}` at position {} has {bytes} bytes of data and metadata, more than the limit of {most}; make it smaller, \
         or raise the limit with `sandmill migrate --max-event-bytes`, then resume the lane with `sandmill resume`",
        event.id, event.position
    );
    Reason::new("event-too-large", message)
}

fn unreadable_event(event: &Event, why: &str) -> Reason {
    let message = format!(
        "the database cannot return the event `{}` at position {}: {why}; repair its row, then resume the lane with `sandmill resume`",
        event.id, event.position
    );
    Reason::new("event-unreadable", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Deferred;

    fn event(position: i64, deferred: bool) -> Arc<Event> {
        Arc::new(Event {
            position,
            id: position.to_string().into(),
            tenant: TenantId::parse("t").unwrap(),
            event_type: "T".into(),
            stream: "s".into(),
            version: 1,
            recorded_at: 0,
            data: if deferred { "" } else { "1" }.into(),
            metadata: "{}".into(),
            deferred: deferred.then(|| Deferred::new(10)),
        })
    }

    fn body(position: i64, data: Option<&str>) -> Body {
        Body { position, bytes: 5_000_000, most: 4_000_000, texts: data.map(|data| (data.into(), "{}".into())) }
    }

    #[test]
    fn events_are_ready_up_to_the_first_without_data() {
        let events = [event(1, false), event(2, true), event(3, false), event(4, true), event(5, false)];
        let ready = |outcome: LoadOutcome| {
            let (events, unread) = ready_events(&events, outcome);
            assert!(events.iter().all(|event| event.deferred.is_none()));
            (events.iter().map(|event| event.data.to_string()).collect::<Vec<_>>(), unread)
        };
        let all = vec![body(2, Some("2")), body(4, Some("4"))];
        assert_eq!(ready(LoadOutcome::Bodies(all)), (["1", "2", "1", "4", "1"].map(String::from).into(), None));
        let (some, unread) = ready(LoadOutcome::Bodies(vec![body(2, Some("2"))]));
        assert_eq!((some, unread), (["1", "2", "1"].map(String::from).into(), None), "the next load begins there");
        let (some, unread) = ready(LoadOutcome::Bodies(vec![body(2, Some("2")), body(4, None)]));
        assert_eq!((some.len(), unread.as_ref().map(|reason| &*reason.class)), (3, Some("event-too-large")));
        let message = unread.unwrap().message;
        assert!(message.starts_with("the event `4` at position 4 has 5000000 bytes"), "{message}");
        let (some, unread) = ready(LoadOutcome::Unreadable("missing chunk".into()));
        assert_eq!((some.len(), unread.map(|reason| reason.class)), (1, Some("event-unreadable".to_string())));
    }
}
