//! What each tenant has used: counted in memory, and every two seconds added to the sums in the database, one statement for all.
//!
//! Only tenants that used something since are held and written, so idle ones cost nothing. The sums are for people and bills by the rule of thumb:
//! a host that is killed takes up to two seconds of them along. No decision of the host follows from them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use foldhash::fast::RandomState;
use tokio::time::timeout;

use crate::{
    db::{Db, Error, Session, describe, types::ToSql},
    model::{
        handler::Reason,
        ids::{ProcessorId, TenantId},
    },
    supervisor::Stop,
};

/// Between two additions to the sums.
const EVERY: Duration = Duration::from_secs(2);
/// How long a host that ends waits for the last addition. Default 5 s; only a database that does
/// not answer takes longer than some milliseconds.
const LAST: Duration = Duration::from_secs(5);
/// The same for one that is under way then. Default 300 ms: the last one follows.
const CUT_OFF: Duration = Duration::from_millis(300);
/// Tenants that are held at most, at some 200 bytes each, while the database cannot be told.
const TENANTS: usize = 50_000;
/// Tenants in one statement.
const AT_ONCE: usize = 5_000;

/// What one tenant has used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// CPU time of its guests, with what the host did inside their calls.
    pub cpu: Duration,
    /// Time in which a guest of it could have computed and others did, added up over its guests.
    pub waited: Duration,
    /// Time for which it was held back by its rates.
    pub throttled: Duration,
    /// Events handled, by each processor that did.
    pub events: u64,
    /// Documents written.
    pub documents: u64,
    /// Bytes of documents and dead letters written.
    pub bytes: u64,
    /// Times that one of its lanes stopped: it failed, or asked to.
    pub failures: u64,
    /// Times that its guests were refused something, whether they failed of it or not.
    pub refusals: u64,
    /// What they were refused last.
    pub last_refusal: Option<Reason>,
    /// The last failure.
    pub last_error: Option<LastError>,
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq)]
pub struct LastError {
    /// In which processor.
    pub processor: ProcessorId,
    /// Why.
    pub reason: Reason,
    /// When.
    pub at: SystemTime,
}

impl Used {
    /// Something of a tenant went wrong in a processor.
    pub fn failed(&mut self, processor: &ProcessorId, reason: &Reason) {
        self.failures += 1;
        let (processor, reason, at) = (processor.clone(), reason.clone(), SystemTime::now());
        self.last_error = Some(LastError { processor, reason, at });
    }

    fn add(&mut self, later: Used) {
        self.cpu += later.cpu;
        self.waited += later.waited;
        self.throttled += later.throttled;
        self.events += later.events;
        self.documents += later.documents;
        self.bytes += later.bytes;
        self.failures += later.failures;
        self.refusals += later.refusals;
        self.last_refusal = later.last_refusal.or(self.last_refusal.take());
        self.last_error = later.last_error.or(self.last_error.take());
    }
}

/// What tenants have used and the database does not know yet.
#[derive(Default)]
pub struct Usage {
    untold: Mutex<HashMap<TenantId, Used, RandomState>>,
}

impl Usage {
    pub(super) fn add(&self, tenant: &TenantId, add: impl FnOnce(&mut Used)) {
        let mut untold = self.lock();
        if let Some(used) = untold.get_mut(tenant) {
            add(used);
        } else if untold.len() < TENANTS {
            add(untold.entry(tenant.clone()).or_default());
        }
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What has been used since this was last asked.
    pub fn take(&self) -> HashMap<TenantId, Used, RandomState> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Used, RandomState>> {
        // Sums are whole after each addition.
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What guests were refused since this was asked last: by tenant how often, and the last reason.
pub type Refusals = Arc<dyn Fn() -> Vec<(TenantId, u64, Reason)> + Send + Sync>;

/// Adds to the sums until told to stop. A database that cannot be told is told later.
pub async fn tell(tenants: super::Tenants, refusals: Refusals, db: Db, mut stop: Stop) -> anyhow::Result<()> {
    let (mut session, mut since) = (None, Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.drain() => return Ok(()),
        }
        let mut telling = std::pin::pin!(async {
            if session.as_ref().is_none_or(|session: &Session| session.is_closed()) {
                session = db.connect("tenants").await.ok();
            }
            let Some(session) = &session else { return };
            match tell_once(&tenants, &refusals, session, since.elapsed()).await {
                Ok(()) => since = Instant::now(),
                Err(error) => tracing::debug!(error = describe(&error), "what tenants used will be told later"),
            }
        });
        tokio::select! {
            () = &mut telling => {}
            () = stop.drain() => {
                // A database that does not answer keeps nobody from ending.
                let _ = timeout(CUT_OFF, telling).await;
                return Ok(());
            }
        }
    }
}

/// Adds what is left when a host ends. If the database cannot be told now, it never will.
pub async fn tell_last(tenants: &super::Tenants, refusals: &Refusals, db: &Db) {
    let last = refusals();
    if last.is_empty() && tenants.usage().is_empty() {
        return;
    }
    let last: Refusals = Arc::new(move || last.clone());
    let told = async { tell_once(tenants, &last, &db.connect("tenants").await?, EVERY).await };
    let lost = match timeout(LAST, told).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => describe(&error),
        Err(_) => "the database does not answer".into(),
    };
    tracing::warn!(error = lost, "what tenants used last is lost: their sums could not be added to");
}

/// Adds what was used in the time that has passed to the sums.
async fn tell_once(
    tenants: &super::Tenants,
    refusals: &Refusals,
    session: &Session,
    passed: Duration,
) -> Result<(), Error> {
    for (tenant, times, last) in refusals() {
        tenants.count(&tenant, |used| {
            used.refusals += times;
            used.last_refusal = Some(last);
        });
    }
    let untold: Vec<(TenantId, Used)> = tenants.usage().take().into_iter().collect();
    for (index, chunk) in untold.chunks(AT_ONCE).enumerate() {
        if let Err(error) = add(session, chunk, passed).await {
            for (tenant, used) in &untold[index * AT_ONCE..] {
                tenants.count(tenant, |later| later.add_earlier(used.clone()));
            }
            return Err(error);
        }
    }
    Ok(())
}

impl Used {
    fn add_earlier(&mut self, mut earlier: Used) {
        earlier.add(std::mem::take(self));
        *self = earlier;
    }
}

async fn add(session: &Session, used: &[(TenantId, Used)], passed: Duration) -> Result<(), Error> {
    let column = |value: fn(&Used) -> i64| used.iter().map(|(_, used)| value(used)).collect::<Vec<_>>();
    let seconds =
        |value: fn(&Used) -> Duration| used.iter().map(|(_, used)| value(used).as_secs_f64()).collect::<Vec<_>>();
    let errors = || used.iter().map(|(_, used)| used.last_error.as_ref());
    let tenants: Vec<&str> = used.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let processors: Vec<Option<&str>> = errors().map(|error| Some(error?.processor.as_str())).collect();
    let reasons: Vec<Option<String>> = errors().map(|error| Some(error?.reason.to_string())).collect();
    let refused: Vec<Option<String>> =
        used.iter().map(|(_, used)| Some(used.last_refusal.as_ref()?.to_string())).collect();
    let times: Vec<Option<SystemTime>> = errors().map(|error| Some(error?.at)).collect();
    let parameters: [&(dyn ToSql + Sync); 14] = [
        &passed.as_secs_f64(),
        &tenants,
        &seconds(|used| used.cpu),
        &seconds(|used| used.waited),
        &seconds(|used| used.throttled),
        &column(|used| used.events as i64),
        &column(|used| used.documents as i64),
        &column(|used| used.bytes as i64),
        &column(|used| used.failures as i64),
        &processors,
        &reasons,
        &times,
        &column(|used| used.refusals as i64),
        &refused,
    ];
    session.execute(include_str!("usage/add.sql"), &parameters).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_told_is_told_with_what_came_later() {
        let (acme, carts) = (TenantId::parse("acme").unwrap(), ProcessorId::parse("carts").unwrap());
        let usage = Usage::default();
        usage.add(&acme, |used| {
            used.events += 3;
            used.failed(&carts, &Reason::new("trap", "early"));
        });
        let earlier = usage.take().remove(&acme).unwrap();
        usage.add(&acme, |used| used.events += 4);
        usage.add(&acme, |used| used.add_earlier(earlier.clone()));
        let sum = usage.take().remove(&acme).unwrap();
        assert_eq!((sum.events, sum.failures), (7, 1));
        assert_eq!(sum.last_error, earlier.last_error);
        usage.add(&acme, |used| {
            used.failed(&carts, &Reason::new("trap", "late"));
            used.add_earlier(earlier);
        });
        assert_eq!(usage.take().remove(&acme).unwrap().last_error.unwrap().reason.message, "late");
    }

    #[test]
    fn a_database_that_is_gone_for_long_does_not_fill_the_memory() {
        let usage = Usage::default();
        for n in 0..TENANTS + 10 {
            usage.add(&TenantId::parse(&format!("t{n}")).unwrap(), |used| used.events += 1);
        }
        assert_eq!(usage.take().len(), TENANTS);
    }
}
