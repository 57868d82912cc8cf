//! Guest threads: where the futures of guests are polled, apart from the runtime that drives sockets and timers.
//!
//! Whose turn it is is decided in [`ring`]: tenants share the CPU time by weight and class, and pay for what their polls have really cost by the thread's
//! own CPU clock, with all that the host does for them inside. A guest's future yields every slice (see `sandbox::meter`) and goes back into the
//! ring; one that waits for the host is not in it until it is woken. A tenant with threads of its own has a ring of its own too. Dropping what
//! [`Scheduler::run`] returned drops the guest's future at its next slice at the latest. The threads end with the scheduler.

mod meter;
mod ring;
mod uncommitted;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_task::{Runnable, ScheduleInfo, WithInfo};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

pub use meter::Meter;
pub use ring::Class;
use ring::{Length, Ring, Turn};
pub use uncommitted::{Counted, Uncommitted, Waiters};

use crate::model::ids::TenantId;

/// How long a thread rests after each slice of a guest that goes on: as short as the kernel can, some 60 µs. A thread that computes without end is moved off its
/// core only after several milliseconds, and everybody's commit crosses several such waits: the runtime's, and those of PostgreSQL's sessions if it is on the
/// same machine. Where nobody waits, it costs guests that compute for long a twentieth of their time. (Quiet tenants beside three that spin, p99: 31 ms without
/// it, 15 ms with it.)
const REST: Duration = Duration::from_micros(1);

/// What an operator can set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Threads that run guests. Default: one for each core, at least 1; guests compute, so more only adds switching.
    pub threads: usize,
    /// Threads that one tenant's guests may hold at once, or 0 for all but one of `threads`, at least 1. Default 0: whatever a tenant does, another one that
    /// comes finds a thread without waiting for the end of its slice.
    pub tenant_threads: usize,
    /// Threads kept free of guests that have computed for a whole slice (a millisecond) already. Default: one, where there are two or more. Whoever comes then
    /// finds a thread, and a core's worth of time is left for the runtime, the kernel and, on the same machine, PostgreSQL: with guests on every core all of them
    /// wait for each other, and so does everybody's commit.
    pub free_threads: usize,
    /// Parts of a tenant's weight that count for events at the head of the log, which somebody waits for. 1 to 100. Default 8.
    pub live_weight: u32,
    /// The same for what is behind the head or reads the log for itself. Default 2: it gets on, and a tenant's own live events go before it.
    pub catch_up_weight: u32,
    /// The same for a second set of documents, which nobody reads yet. Default 1.
    pub rebuild_weight: u32,
}

impl Default for Config {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Config { threads, tenant_threads: 0, free_threads: 1, live_weight: 8, catch_up_weight: 2, rebuild_weight: 1 }
    }
}

impl Config {
    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<(), String> {
        let threads = self.threads;
        if !(1..=256).contains(&threads) {
            return Err(format!("scheduler.threads = {threads} is out of range; it takes 1 to 256"));
        }
        if self.free_threads > 255 {
            let given = self.free_threads;
            return Err(format!("scheduler.free-threads = {given} is out of range; it takes 0 to 255"));
        }
        if self.tenant_threads > 256 {
            let given = self.tenant_threads;
            return Err(format!(
                "scheduler.tenant-threads = {given} is out of range; it takes 1 to 256, or 0 for all but one"
            ));
        }
        let weights = [
            ("live-weight", self.live_weight),
            ("catch-up-weight", self.catch_up_weight),
            ("rebuild-weight", self.rebuild_weight),
        ];
        for (name, weight) in weights {
            if !(1..=100).contains(&weight) {
                return Err(format!("scheduler.{name} = {weight} is out of range; it takes 1 to 100"));
            }
        }
        Ok(())
    }

    /// Parts that classes have, by [`Class`].
    fn classes(&self) -> [u32; 3] {
        [self.live_weight, self.catch_up_weight, self.rebuild_weight]
    }
}

/// Guest threads and who shares them. Cheap to clone; the last clone ends the threads.
#[derive(Clone)]
pub struct Scheduler {
    shared: Threads,
    /// Of tenants that have threads of their own.
    own: Arc<BTreeMap<TenantId, Threads>>,
    uncommitted: Uncommitted,
}

impl Scheduler {
    /// Starts the threads that all share.
    pub fn start(config: &Config) -> std::io::Result<Self> {
        Self::start_for(config, BTreeMap::new(), &BTreeMap::new())
    }

    /// Starts the threads, shared by tenants with these weights or 1, and so many more for each of these tenants alone.
    pub fn start_for(
        config: &Config,
        weights: BTreeMap<TenantId, u32>,
        own: &BTreeMap<TenantId, usize>,
    ) -> std::io::Result<Self> {
        let threads = config.threads.max(1);
        let at_once = if config.tenant_threads == 0 { threads - 1 } else { config.tenant_threads };
        let long_at_once = threads.saturating_sub(config.free_threads);
        let shared = Threads::start("guest", threads, Ring::new(weights, config.classes(), at_once, long_at_once))?;
        let own = own.iter().map(|(tenant, &threads)| {
            let ring = Ring::new(BTreeMap::new(), config.classes(), threads, threads);
            // Names of threads have 15 bytes.
            Ok((tenant.clone(), Threads::start(&format!("own-{tenant:.8}"), threads, ring)?))
        });
        let own = Arc::new(own.collect::<std::io::Result<_>>()?);
        Ok(Scheduler { shared, own, uncommitted: Uncommitted::default() })
    }

    /// Runs a future on the guest threads, in a tenant's time, and counts what it costs. A panic in it comes out where this is awaited.
    pub fn run<F>(
        &self,
        tenant: &TenantId,
        class: Class,
        meter: &Arc<Meter>,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let queue = Arc::downgrade(self.queue(tenant));
        let (tenant, meter) = (tenant.clone(), meter.clone());
        let schedule = move |runnable: Runnable, info: ScheduleInfo| {
            // Whoever is woken by its own poll has not waited: its slice has ended, and it would go on.
            let length = if info.woken_while_running { Length::Long } else { Length::Short };
            // Without a queue the scheduler is gone, and dropping the runnable cancels the guest.
            if let Some(queue) = queue.upgrade() {
                meter.waits();
                queue.push(&tenant, class, length, Waiting { runnable, meter: meter.clone(), since: Instant::now() });
            }
        };
        let (runnable, task) = async_task::Builder::new().propagate_panic(true).spawn(|()| future, WithInfo(schedule));
        runnable.schedule();
        task
    }

    /// Charges a tenant for time that was spent on its behalf elsewhere.
    pub fn charge(&self, tenant: &TenantId, class: Class, time: Duration) {
        self.queue(tenant).lock().ring.charge(tenant, class, time);
    }

    /// What a tenant owes in a class, in turns of the ring: how far others go before it.
    pub fn debt(&self, tenant: &TenantId, class: Class) -> u32 {
        self.queue(tenant).lock().ring.debt(tenant, class)
    }

    /// Forgives a tenant what it owes in a class, as what it owed for is done.
    pub fn forgive(&self, tenant: &TenantId, class: Class) {
        self.queue(tenant).lock().ring.forgive(tenant, class);
    }

    /// Results that are not committed, for which runs of their tenants may have to wait.
    pub fn uncommitted(&self) -> &Uncommitted {
        &self.uncommitted
    }

    fn queue(&self, tenant: &TenantId) -> &Arc<Queue> {
        &self.own.get(tenant).unwrap_or(&self.shared).0.queue
    }
}

/// Threads with one ring.
#[derive(Clone)]
struct Threads(Arc<Work>);

struct Work {
    queue: Arc<Queue>,
}

impl Threads {
    fn start(name: &str, threads: usize, ring: Ring<Waiting>) -> std::io::Result<Self> {
        let state = State { ring, resting: 0, ended: false };
        let queue = Arc::new(Queue { state: Mutex::new(state), ready: Condvar::new() });
        let work = Work { queue: queue.clone() };
        for number in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || queue.work())?;
        }
        Ok(Threads(Arc::new(work)))
    }
}

impl Drop for Work {
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
    /// Threads that wait for something to do: as telling them is a system call, it is done only if there are any.
    resting: usize,
    ended: bool,
}

/// A guest that could go on, and since when.
struct Waiting {
    runnable: Runnable,
    meter: Arc<Meter>,
    since: Instant,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it, and a queue is whole between any two of its calls anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, tenant: &TenantId, class: Class, length: Length, waiting: Waiting) {
        let mut state = self.lock();
        state.ring.push(tenant, class, length, waiting);
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
            guest.meter.goes_on(waited);
            guest.runnable.run();
            // One look at the clock for each poll: what it took to find the next guest is the next one's.
            let now = thread_cpu();
            let cpu = now.saturating_sub(clock);
            guest.meter.add(cpu);
            if turn.is_long() {
                std::thread::sleep(REST);
            }
            ran = Some((turn, cpu));
            clock = now;
        }
    }

    /// Gives back a turn and waits for the next; also says whether the thread had to rest. None when the scheduler ends.
    fn next(&self, ran: Option<(Turn, Duration)>) -> Option<(Turn, Waiting, bool)> {
        let (mut state, mut rested) = (self.lock(), false);
        if let Some((turn, cpu)) = ran {
            state.ring.ran(turn, cpu);
        }
        loop {
            if state.ended {
                return None;
            }
            if let Some((turn, guest)) = state.ring.next() {
                // The end of one turn may let two go on.
                if state.resting > 0 && state.ring.waiting() > 0 {
                    self.ready.notify_one();
                }
                return Some((turn, guest, rested));
            }
            state.resting += 1;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.resting -= 1;
            rested = true;
        }
    }
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
        let config = Config { threads, tenant_threads, free_threads: 0, ..Config::default() };
        config.check().unwrap();
        let weights = weights.iter().map(|(name, weight)| (tenant(name), *weight)).collect();
        Scheduler::start_for(&config, weights, &BTreeMap::new()).unwrap()
    }

    fn meter() -> Arc<Meter> {
        Arc::default()
    }

    fn ms(meter: &Meter) -> f64 {
        meter.cpu().as_secs_f64() * 1e3
    }

    #[tokio::test]
    async fn runs_apart_from_the_runtime_and_gives_turns() {
        let scheduler = start(1, 0, &[]);
        let turns = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let hog = scheduler.run(&tenant("hog"), Class::Live, &meter(), {
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
        scheduler.run(&tenant("quiet"), Class::Live, &meter(), quiet).await;
        assert_eq!(hog.await.as_deref(), Some("guest-0"));
        assert!(turns.load(SeqCst) >= 10);
    }

    #[tokio::test]
    async fn threads_share_by_weight_and_class_what_polls_have_cost() {
        let scheduler = start(1, 0, &[("heavy", 3)]);
        let done = Arc::new(AtomicBool::new(false));
        let mut hogs = Vec::new();
        // However many guests a tenant has and however long their polls are.
        let meters = [(); 4].map(|()| meter());
        let cases = [
            ("heavy", Class::Live, 1, 1000),
            ("many", Class::Live, 9, 300),
            ("long", Class::Live, 1, 2500),
            ("behind", Class::CatchUp, 2, 1000),
        ];
        for ((name, class, guests, micros), meter) in cases.into_iter().zip(&meters) {
            for _ in 0..guests {
                let done = done.clone();
                hogs.push(scheduler.run(&tenant(name), class, meter, async move {
                    while !done.load(SeqCst) {
                        slice(micros).await;
                    }
                }));
            }
        }
        let used = loop {
            // To be served is to have waited for some of their slices.
            scheduler.run(&tenant("watch"), Class::Live, &meter(), async {}).await;
            let used = meters.each_ref().map(|meter| ms(meter));
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
                scheduler.run(&tenant("many"), Class::Live, &meter(), async move {
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
        scheduler.run(&tenant("one"), Class::Live, &meter(), other).await;
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
        let cost = meter();
        let hog = scheduler.run(&tenant("hog"), Class::Live, &cost, {
            let done = done.clone();
            async move {
                while !done.load(SeqCst) {
                    slice(1000).await;
                }
            }
        });
        scheduler.run(&spender, Class::Live, &meter(), async {}).await;
        // From its start on: every turn that the hog has had is one that the other paid for.
        let before = ms(&cost);
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
        let endless = scheduler.run(&tenant("endless"), Class::Live, &meter(), async move {
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
        let run = scheduler
            .run(&tenant("clumsy"), Class::Live, &meter(), async { assert!(thread_cpu().is_zero(), "tripped") });
        let panic = tokio::spawn(run).await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"tripped"));
        assert_eq!(scheduler.run(&tenant("clumsy"), Class::Live, &meter(), async { 1 }).await, 1);
    }

    #[tokio::test]
    async fn a_wait_counts_while_it_lasts() {
        let scheduler = start(1, 0, &[]);
        let held = Arc::new(AtomicBool::new(true));
        let holds = held.clone();
        let hog = scheduler.run(&tenant("hog"), Class::Live, &meter(), async move {
            while holds.load(SeqCst) {
                std::hint::spin_loop();
            }
        });
        let waits = meter();
        let waiting = scheduler.run(&tenant("quiet"), Class::Live, &waits, async {});
        slice(100).await;
        let so_far = waits.waited();
        held.store(false, SeqCst);
        hog.await;
        waiting.await;
        assert!(so_far > Duration::ZERO);
        assert!(waits.waited() >= so_far);
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused_with_the_way_out() {
        let refused = |config: Config| config.check().unwrap_err();
        assert_eq!(
            refused(Config { threads: 0, ..Config::default() }),
            "scheduler.threads = 0 is out of range; it takes 1 to 256"
        );
        assert_eq!(
            refused(Config { tenant_threads: 257, ..Config::default() }),
            "scheduler.tenant-threads = 257 is out of range; it takes 1 to 256, or 0 for all but one"
        );
        assert_eq!(
            refused(Config { catch_up_weight: 0, ..Config::default() }),
            "scheduler.catch-up-weight = 0 is out of range; it takes 1 to 100"
        );
    }

    #[tokio::test]
    async fn a_tenant_with_threads_of_its_own_neither_gives_nor_takes_any() {
        let config = Config { threads: 1, ..Config::default() };
        let own = [(tenant("rich"), 1)].into();
        let scheduler = Scheduler::start_for(&config, BTreeMap::new(), &own).unwrap();
        let where_am_i = async { std::thread::current().name().map(str::to_string) };
        // On one shared thread this could never end.
        let meeting = Arc::new(Barrier::new(2));
        let met = meeting.clone();
        let poor = scheduler.run(&tenant("poor"), Class::Live, &meter(), async move {
            met.wait();
            where_am_i.await
        });
        let rich = scheduler.run(&tenant("rich"), Class::Live, &meter(), async move {
            meeting.wait();
            std::thread::current().name().map(str::to_string)
        });
        assert_eq!((poor.await.as_deref(), rich.await.as_deref()), (Some("guest-0"), Some("own-rich-0")));
    }
}
