//! Guest threads: where the futures of guests are polled, apart from the runtime that drives sockets and timers.
//!
//! Whose turn it is is decided in [`ring`]: tenants share the CPU time by weight and class, and pay for what their polls have really cost by the thread's
//! own CPU clock, with all that the host does for them inside. A guest's future yields every slice (see `sandbox::meter`) and goes back into the
//! ring; one that waits for the host is not in it until it is woken. Dropping what [`Scheduler::run`] returned drops the guest's future
//! at its next slice at the latest. The threads end with the scheduler.

mod ring;
mod usage;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_task::Runnable;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

pub use ring::Class;
use ring::{Ring, Turn};
pub use usage::Usage;
use usage::Usages;

use crate::model::ids::TenantId;

/// What an operator can set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Threads that run guests. Default: one for each core, at least 1; guests compute, so more only adds switching.
    pub threads: usize,
    /// Threads that one tenant's guests may hold at once, or 0 for all but one of `threads`, at least 1. Default 0: whatever a tenant does, another one that
    /// comes finds a thread without waiting for the end of its slice.
    pub tenant_threads: usize,
    /// Parts of the guest threads' time by tenant, as in `{ acme = 3 }`; others have 1. They count where there is not enough for all: a tenant of
    /// weight 3 then gets three times what one of weight 1 gets. 1 to 100. Default: none, so that all are equal.
    pub weights: BTreeMap<String, u32>,
}

impl Default for Config {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Config { threads, tenant_threads: 0, weights: BTreeMap::new() }
    }
}

impl Config {
    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<(), String> {
        let threads = self.threads;
        if !(1..=256).contains(&threads) {
            return Err(format!("scheduler.threads = {threads} is out of range; it takes 1 to 256"));
        }
        if self.tenant_threads > 256 {
            let given = self.tenant_threads;
            return Err(format!(
                "scheduler.tenant-threads = {given} is out of range; it takes 1 to 256, or 0 for all but one"
            ));
        }
        for (tenant, weight) in &self.weights {
            TenantId::parse(tenant).map_err(|e| format!("scheduler.weights: {e}"))?;
            if !(1..=100).contains(weight) {
                return Err(format!(
                    "scheduler.weights: {tenant} = {weight} is out of range; it takes 1 to 100. To hold a tenant back, give others more"
                ));
            }
        }
        Ok(())
    }

    fn ring(&self) -> Ring<Waiting> {
        // Names that break their rule name no tenant; `check` refuses them.
        let weights = self.weights.iter().filter_map(|(name, weight)| Some((TenantId::parse(name).ok()?, *weight)));
        let at_once = if self.tenant_threads == 0 { self.threads.saturating_sub(1) } else { self.tenant_threads };
        Ring::new(weights.collect(), at_once)
    }
}

/// A set of guest threads with one ring. Cheap to clone; the last clone ends the threads.
#[derive(Clone)]
pub struct Scheduler {
    _threads: Arc<Threads>,
    queue: Arc<Queue>,
}

impl Scheduler {
    /// Starts the threads.
    pub fn start(config: &Config) -> std::io::Result<Self> {
        let state = State { ring: config.ring(), usages: Usages::default(), resting: 0, ended: false };
        let queue = Arc::new(Queue { state: Mutex::new(state), ready: Condvar::new() });
        let threads = Threads { queue: queue.clone() };
        for number in 0..config.threads.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("guest-{number}")).spawn(move || queue.work())?;
        }
        Ok(Scheduler { _threads: Arc::new(threads), queue })
    }

    /// Runs a future on the guest threads, in a tenant's time. A panic in it comes out where this is awaited.
    pub fn run<F>(&self, tenant: &TenantId, class: Class, future: F) -> impl Future<Output = F::Output> + use<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let queue = Arc::downgrade(&self.queue);
        let tenant = tenant.clone();
        let schedule = move |runnable: Runnable| {
            // Without a queue the scheduler is gone, and dropping the runnable cancels the guest.
            if let Some(queue) = queue.upgrade() {
                queue.push(&tenant, class, runnable);
            }
        };
        let (runnable, task) = async_task::Builder::new().propagate_panic(true).spawn(|()| future, schedule);
        runnable.schedule();
        task
    }

    /// Charges a tenant for time that was spent on its behalf elsewhere.
    pub fn charge(&self, tenant: &TenantId, class: Class, time: Duration) {
        self.queue.lock().ring.charge(tenant, class, time);
    }

    /// What tenants have used, of those that computed most recently.
    pub fn usage(&self) -> Vec<(TenantId, Usage)> {
        self.queue.lock().usages.all()
    }
}

struct Threads {
    queue: Arc<Queue>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue.lock().ended = true;
        self.queue.ready.notify_all();
    }
}

struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

struct State {
    ring: Ring<Waiting>,
    usages: Usages,
    /// Threads that wait for something to do: as telling them is a system call, it is done only if there are any.
    resting: usize,
    ended: bool,
}

/// A guest that could go on, and since when.
struct Waiting {
    runnable: Runnable,
    since: Instant,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it, and a queue is whole between any two of its calls anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, tenant: &TenantId, class: Class, runnable: Runnable) {
        let waiting = Waiting { runnable, since: Instant::now() };
        let mut state = self.lock();
        state.ring.push(tenant, class, waiting);
        let wake = state.resting > 0 && state.ring.waiting() > 0;
        drop(state);
        if wake {
            self.ready.notify_one();
        }
    }

    fn work(&self) {
        let (mut ran, mut clock) = (None, thread_cpu());
        while let Some((turn, guest, rested)) = self.next(ran.take()) {
            if rested {
                clock = thread_cpu();
            }
            let waited = guest.since.elapsed();
            guest.runnable.run();
            // One look at the clock for each poll: what it took to find the next guest is the next one's.
            let now = thread_cpu();
            ran = Some(Ran { turn, cpu: now.saturating_sub(clock), waited });
            clock = now;
        }
    }

    /// Gives back a turn and waits for the next; also says whether the thread had to rest. None when the scheduler ends.
    fn next(&self, ran: Option<Ran>) -> Option<(Turn, Waiting, bool)> {
        let (mut state, mut rested) = (self.lock(), false);
        if let Some(Ran { turn, cpu, waited }) = ran {
            let State { ring, usages, .. } = &mut *state;
            if let Some(tenant) = ring.tenant(&turn) {
                usages.add(tenant, cpu, waited);
            }
            ring.ran(turn, cpu);
        }
        loop {
            if state.ended {
                return None;
            }
            if let Some((turn, guest)) = state.ring.next() {
                return Some((turn, guest, rested));
            }
            state.resting += 1;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.resting -= 1;
            rested = true;
        }
    }
}

/// A poll that has ended.
struct Ran {
    turn: Turn,
    cpu: Duration,
    waited: Duration,
}

/// CPU time that this thread has used in its life.
fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    };

    /// Computes for about so long, and gives way.
    async fn slice(micros: u64) {
        let began = thread_cpu();
        while thread_cpu() - began < Duration::from_micros(micros) {
            std::hint::black_box((0..1000u64).sum::<u64>());
        }
        tokio::task::yield_now().await;
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn start(threads: usize, tenant_threads: usize, weights: &[(&str, u32)]) -> Scheduler {
        let weights = weights.iter().map(|(name, weight)| (name.to_string(), *weight)).collect();
        let config = Config { threads, tenant_threads, weights };
        config.check().unwrap();
        Scheduler::start(&config).unwrap()
    }

    /// CPU milliseconds that tenants have used so far.
    fn used<const N: usize>(scheduler: &Scheduler, tenants: [&str; N]) -> [f64; N] {
        let usage: BTreeMap<TenantId, Usage> = scheduler.usage().into_iter().collect();
        tenants.map(|name| usage.get(&tenant(name)).map_or(0.0, |usage| usage.cpu.as_secs_f64() * 1e3))
    }

    #[tokio::test]
    async fn runs_apart_from_the_runtime_and_gives_turns() {
        let scheduler = start(1, 0, &[]);
        let turns = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let hog = scheduler.run(&tenant("hog"), Class::Live, {
            let (turns, done) = (turns.clone(), done.clone());
            async move {
                while !done.load(SeqCst) {
                    turns.fetch_add(1, SeqCst);
                    slice(1000).await;
                }
                std::thread::current().name().map(str::to_string)
            }
        });
        // One thread, and a hog on it: the other tenant still gets its turns, and the hog as well.
        let quiet = async move {
            for _ in 0..20 {
                slice(1000).await;
            }
            done.store(true, SeqCst);
        };
        scheduler.run(&tenant("quiet"), Class::Live, quiet).await;
        assert_eq!(hog.await.as_deref(), Some("guest-0"));
        assert!(turns.load(SeqCst) >= 10);
    }

    #[tokio::test]
    async fn threads_share_by_weight_and_class_what_polls_have_cost() {
        let scheduler = start(1, 0, &[("heavy", 3)]);
        let done = Arc::new(AtomicBool::new(false));
        let mut hogs = Vec::new();
        // However many guests a tenant has and however long their polls are.
        let cases = [
            ("heavy", Class::Live, 1, 1000),
            ("many", Class::Live, 9, 300),
            ("long", Class::Live, 1, 2500),
            ("behind", Class::CatchUp, 2, 1000),
        ];
        for (name, class, guests, micros) in cases {
            for _ in 0..guests {
                let done = done.clone();
                hogs.push(scheduler.run(&tenant(name), class, async move {
                    while !done.load(SeqCst) {
                        slice(micros).await;
                    }
                }));
            }
        }
        let used = loop {
            // To be served is to have waited for some of their slices.
            scheduler.run(&tenant("watch"), Class::Live, async {}).await;
            let used = used(&scheduler, ["heavy", "many", "long", "behind"]);
            if used.iter().sum::<f64>() >= 500.0 {
                break used;
            }
        };
        done.store(true, SeqCst);
        for hog in hogs {
            hog.await;
        }
        let all: f64 = used.iter().sum();
        // A poll at either end is not shared out yet.
        for (used, share) in used.iter().zip([12.0, 4.0, 4.0, 1.0]) {
            assert!((used - all * share / 21.0).abs() <= 0.05 * all * share / 21.0 + 6.0, "{used} ms of {all}");
        }
    }

    #[tokio::test]
    async fn a_tenant_at_its_threads_leaves_the_others_free() {
        let scheduler = start(2, 1, &[]);
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Each of these polls ends only when one of the other tenant is under way on another thread.
        let meeting = Arc::new(Barrier::new(2));
        let guests: Vec<_> = (0..4)
            .map(|_| {
                let (inside, most, meeting) = (inside.clone(), most.clone(), meeting.clone());
                scheduler.run(&tenant("many"), Class::Live, async move {
                    for _ in 0..5 {
                        most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                        meeting.wait();
                        inside.fetch_sub(1, SeqCst);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let other = async move {
            for _ in 0..20 {
                meeting.wait();
                tokio::task::yield_now().await;
            }
        };
        scheduler.run(&tenant("one"), Class::Live, other).await;
        for guest in guests {
            guest.await;
        }
        assert_eq!(most.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn what_was_spent_elsewhere_is_paid_here() {
        let scheduler = start(1, 0, &[]);
        let spender = tenant("spender");
        scheduler.charge(&spender, Class::Live, Duration::from_millis(60));
        let done = Arc::new(AtomicBool::new(false));
        let hog = scheduler.run(&tenant("hog"), Class::Live, {
            let done = done.clone();
            async move {
                while !done.load(SeqCst) {
                    slice(1000).await;
                }
            }
        });
        scheduler.run(&spender, Class::Live, async {}).await;
        // From its start on: every turn that the hog has had is one that the other paid for.
        let [before] = used(&scheduler, ["hog"]);
        done.store(true, SeqCst);
        hog.await;
        assert!(before >= 50.0, "it came after {before} ms of the other's");
    }

    #[tokio::test]
    async fn a_dropped_run_is_dropped_while_it_loops() {
        struct Told(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.take().unwrap().send(()).unwrap();
            }
        }
        let scheduler = start(1, 0, &[]);
        let (told, dropped) = tokio::sync::oneshot::channel();
        let told = Told(Some(told));
        let endless = scheduler.run(&tenant("endless"), Class::Live, async move {
            let _told = told;
            loop {
                tokio::task::yield_now().await;
            }
        });
        drop(endless);
        dropped.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_comes_out_where_the_run_is_awaited_and_the_thread_goes_on() {
        let scheduler = start(1, 0, &[]);
        let run = scheduler.run(&tenant("clumsy"), Class::Live, async { assert!(thread_cpu().is_zero(), "tripped") });
        let panic = tokio::spawn(run).await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"tripped"));
        assert_eq!(scheduler.run(&tenant("clumsy"), Class::Live, async { 1 }).await, 1);
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused_with_the_way_out() {
        let refused = |config: Config| config.check().unwrap_err();
        let weights = |name: &str, weight| Config { weights: [(name.into(), weight)].into(), ..Config::default() };
        assert_eq!(
            refused(Config { threads: 0, ..Config::default() }),
            "scheduler.threads = 0 is out of range; it takes 1 to 256"
        );
        assert_eq!(
            refused(Config { tenant_threads: 257, ..Config::default() }),
            "scheduler.tenant-threads = 257 is out of range; it takes 1 to 256, or 0 for all but one"
        );
        assert!(refused(weights("-acme", 2)).starts_with("scheduler.weights: `-acme` is not a valid tenant name: "));
        assert!(
            refused(weights("acme", 0)).starts_with("scheduler.weights: acme = 0 is out of range; it takes 1 to 100")
        );
        assert_eq!(weights("acme.eu", 100).check(), Ok(()));
    }
}
