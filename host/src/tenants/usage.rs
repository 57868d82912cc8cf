//! Usage accounting: each tenant's usage is counted in memory, and added to sums in the database
//! every two seconds.
//!
//! Only tenants with usage since the last report are kept in memory and written, so idle tenants
//! cost nothing. The sums are for people and approximate bills: a host that is killed loses up to
//! two seconds of usage. The host bases no decisions on them.

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

/// Interval between two reports. 2 s: a killed host loses no more usage than that.
const EVERY: Duration = Duration::from_secs(2);
/// Maximum wait for the last report of a host that ends. 5 s: a report takes milliseconds unless
/// the database does not answer.
const LAST: Duration = Duration::from_secs(5);
/// Maximum wait of a host that ends for a report in progress. 300 ms: the last report is still to
/// follow.
const CUT_OFF: Duration = Duration::from_millis(300);
/// Maximum number of tenants with pending usage while the database is unavailable. 50,000: each
/// takes about 200 bytes.
const TENANTS: usize = 50_000;
/// Maximum number of tenants in one statement. 5,000: its arrays stay below a few MiB.
const AT_ONCE: usize = 5_000;

/// The usage of one tenant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time of its guests, including the host's work inside their calls.
    pub cpu: Duration,
    /// Time that its guests waited for a guest thread, summed over the guests.
    pub waited: Duration,
    /// Time that its rate limits delayed it.
    pub throttled: Duration,
    /// Events handled, counted once per processor that handled them.
    pub events: u64,
    /// Documents written.
    pub documents: u64,
    /// Bytes of documents and dead letters written.
    pub bytes: u64,
    /// Number of times that one of its lanes stopped, after a failure or on request of its handler.
    pub failures: u64,
    /// Number of actions of its guests that a limit refused, such as calls and log lines, whether
    /// or not they caused a failure.
    pub refusals: u64,
    /// The last refusal.
    pub last_refusal: Option<Reason>,
    /// The last failure.
    pub last_error: Option<LastError>,
}

/// A tenant's last failure.
#[derive(Clone, Debug, PartialEq)]
pub struct LastError {
    /// The processor that failed.
    pub processor: ProcessorId,
    /// The reason.
    pub reason: Reason,
    /// The time.
    pub at: SystemTime,
}

impl Usage {
    /// Counts a failure of a processor's lane.
    pub fn failed(&mut self, processor: &ProcessorId, reason: &Reason) {
        self.failures += 1;
        let (processor, reason, at) = (processor.clone(), reason.clone(), SystemTime::now());
        self.last_error = Some(LastError { processor, reason, at });
    }

    /// Adds later usage to this.
    fn add(&mut self, later: Usage) {
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

/// Usage that is not yet added to the sums in the database.
#[derive(Default)]
pub struct PendingUsage {
    by_tenant: Mutex<HashMap<TenantId, Usage, RandomState>>,
}

impl PendingUsage {
    pub(super) fn add(&self, tenant: &TenantId, add: impl FnOnce(&mut Usage)) {
        let mut pending = self.lock();
        if let Some(used) = pending.get_mut(tenant) {
            add(used);
        } else if pending.len() < TENANTS {
            add(pending.entry(tenant.clone()).or_default());
        }
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes all pending usage, and leaves none.
    pub fn take(&self) -> HashMap<TenantId, Usage, RandomState> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Usage, RandomState>> {
        // Sums are consistent after each addition.
        self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A function that returns the refused calls since its last call: per tenant their number and the
/// last reason.
pub type TakeRefusals = Arc<dyn Fn() -> Vec<(TenantId, u64, Reason)> + Send + Sync>;

/// Reports usage to the database every two seconds, until it drains. Usage that cannot be reported
/// stays pending.
pub async fn report(tenants: super::Tenants, refusals: TakeRefusals, db: Db, mut stop: Stop) -> anyhow::Result<()> {
    let (mut session, mut since) = (None, Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.drain() => return Ok(()),
        }
        let mut reporting = std::pin::pin!(async {
            if session.as_ref().is_none_or(|session: &Session| session.is_closed()) {
                session = db.connect("tenants").await.ok();
            }
            let Some(session) = &session else { return };
            match report_once(&tenants, &refusals, session, since.elapsed()).await {
                Ok(()) => since = Instant::now(),
                Err(error) => tracing::debug!(error = describe(&error), "tenants' usage stays pending"),
            }
        });
        tokio::select! {
            () = &mut reporting => {}
            () = stop.drain() => {
                // A database that does not answer must not delay the end of the host.
                let _ = timeout(CUT_OFF, reporting).await;
                return Ok(());
            }
        }
    }
}

/// Reports the remaining usage when a host ends. Usage that cannot be reported now is lost.
pub async fn report_last(tenants: &super::Tenants, refusals: &TakeRefusals, db: &Db) {
    let last = refusals();
    if last.is_empty() && tenants.usage().is_empty() {
        return;
    }
    let last: TakeRefusals = Arc::new(move || last.clone());
    let reported = async { report_once(tenants, &last, &db.connect("tenants").await?, EVERY).await };
    let error = match timeout(LAST, reported).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => describe(&error),
        Err(_) => "the database does not answer".into(),
    };
    tracing::warn!(error, "the last seconds of tenants' usage could not be stored and are lost");
}

/// Adds the pending usage to the sums. `passed` is the time in which it was used.
async fn report_once(
    tenants: &super::Tenants,
    refusals: &TakeRefusals,
    session: &Session,
    passed: Duration,
) -> Result<(), Error> {
    for (tenant, times, last) in refusals() {
        tenants.count(&tenant, |used| {
            used.refusals += times;
            used.last_refusal = Some(last);
        });
    }
    let mut unreported = Unreported { tenants, used: tenants.usage().take().into_iter().collect() };
    while !unreported.used.is_empty() {
        let chunk = unreported.used.len().min(AT_ONCE);
        add(session, &unreported.used[..chunk], passed).await?;
        unreported.used.drain(..chunk);
    }
    Ok(())
}

/// Usage that was taken from the pending usage and is not in the database yet. When this is
/// dropped, after an error or because the report was cancelled, the usage is pending again.
struct Unreported<'a> {
    tenants: &'a super::Tenants,
    used: Vec<(TenantId, Usage)>,
}

impl Drop for Unreported<'_> {
    fn drop(&mut self) {
        for (tenant, used) in self.used.drain(..) {
            self.tenants.count(&tenant, |later| later.add_earlier(used));
        }
    }
}

impl Usage {
    fn add_earlier(&mut self, mut earlier: Usage) {
        earlier.add(std::mem::take(self));
        *self = earlier;
    }
}

/// Adds the usage of these tenants to their sums in the database.
async fn add(session: &Session, used: &[(TenantId, Usage)], passed: Duration) -> Result<(), Error> {
    let column = |value: fn(&Usage) -> i64| used.iter().map(|(_, used)| value(used)).collect::<Vec<_>>();
    let seconds =
        |value: fn(&Usage) -> Duration| used.iter().map(|(_, used)| value(used).as_secs_f64()).collect::<Vec<_>>();
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
    fn usage_that_could_not_be_reported_is_added_to_later_usage() {
        let (acme, carts) = (TenantId::parse("acme").unwrap(), ProcessorId::parse("carts").unwrap());
        let usage = PendingUsage::default();
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
    fn usage_of_a_cancelled_report_is_pending_again() {
        let tenants = super::super::Tenants::new(&Default::default(), &Default::default());
        let acme = TenantId::parse("acme").unwrap();
        tenants.count(&acme, |used| used.events += 3);
        let unreported = Unreported { tenants: &tenants, used: tenants.usage().take().into_iter().collect() };
        tenants.count(&acme, |used| used.events += 4);
        drop(unreported);
        assert_eq!(tenants.usage().take().remove(&acme).unwrap().events, 7);
    }

    #[test]
    fn pending_usage_is_bounded_while_the_database_is_unavailable() {
        let usage = PendingUsage::default();
        for n in 0..TENANTS + 10 {
            usage.add(&TenantId::parse(&format!("t{n}")).unwrap(), |used| used.events += 1);
        }
        assert_eq!(usage.take().len(), TENANTS);
    }
}
