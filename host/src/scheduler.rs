//! Guest threads: threads outside the async runtime that poll the futures of guests.
//!
//! The runtime drives sockets and timers, so a guest that computes must not occupy one of its
//! threads. The order of the guests is decided in [`ring`]: tenants share CPU time by weight and
//! class. A tenant is charged for the CPU time of its polls, including the host's work inside them,
//! as the thread's own CPU clock measures it. A guest's future yields after every slice (see
//! `sandbox::meter`) and is queued again; one that waits for the host is queued when it is woken. A
//! tenant with dedicated threads also has its own ring. Several results of work behind the log's
//! head are reported at once (see [`held_wakes`]). Dropping the future that [`Scheduler::run`]
//! returned drops the guest's future at its next slice at the latest. The threads end with the
//! scheduler.

mod config;
mod held_wakes;
mod meter;
mod ring;
mod threads;
mod uncommitted;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use async_task::{Runnable, ScheduleInfo, WithInfo};
pub use config::Config;
pub use meter::TaskMeter;
pub use ring::Class;
use ring::{Length, Ring};
use threads::{GuestThreads, ReadyTask, RunQueue};
pub use uncommitted::{CommitWaiters, Uncommitted, UncommittedBytes};

use crate::model::ids::TenantId;

/// The guest threads and their rings. Cheap to clone; the last clone ends the threads.
#[derive(Clone)]
pub struct Scheduler {
    shared: GuestThreads,
    /// Threads of tenants that have their own.
    dedicated: Arc<BTreeMap<TenantId, GuestThreads>>,
    uncommitted: Uncommitted,
}

impl Scheduler {
    /// Starts threads that all tenants share, with equal weights.
    pub fn start(config: &Config) -> std::io::Result<Self> {
        Self::start_for(config, BTreeMap::new(), &BTreeMap::new())
    }

    /// Starts the shared threads, and additional threads for each tenant in `dedicated`. A tenant
    /// without an entry in `weights` has weight 1.
    pub fn start_for(
        config: &Config,
        weights: BTreeMap<TenantId, u32>,
        dedicated: &BTreeMap<TenantId, usize>,
    ) -> std::io::Result<Self> {
        let threads = config.threads.max(1);
        let tenant_threads = if config.tenant_threads == 0 { threads - 1 } else { config.tenant_threads };
        let long_threads = threads.saturating_sub(config.free_threads);
        let classes = config.class_weights();
        let shared = GuestThreads::start("guest", threads, Ring::new(weights, classes, tenant_threads, long_threads))?;
        let dedicated = dedicated.iter().map(|(tenant, &threads)| {
            let ring = Ring::new(BTreeMap::new(), classes, threads, threads);
            // A thread's name has at most 15 bytes.
            Ok((tenant.clone(), GuestThreads::start(&format!("own-{tenant:.8}"), threads, ring)?))
        });
        let dedicated = Arc::new(dedicated.collect::<std::io::Result<_>>()?);
        Ok(Scheduler { shared, dedicated, uncommitted: Uncommitted::default() })
    }

    /// Runs a future on the guest threads, charged to a tenant and counted by `meter`. A panic in
    /// the future continues where the returned future is awaited.
    pub fn run<F>(
        &self,
        tenant: &TenantId,
        class: Class,
        meter: &Arc<TaskMeter>,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let queue = Arc::downgrade(self.queue(tenant));
        let (tenant, meter) = (tenant.clone(), meter.clone());
        let schedule = move |runnable: Runnable, info: ScheduleInfo| {
            // A task woken by its own poll has not waited: its slice has ended.
            let length = if info.woken_while_running { Length::Long } else { Length::Short };
            // Without a queue the scheduler is gone, and dropping the runnable cancels the guest.
            if let Some(queue) = queue.upgrade() {
                meter.ready();
                let task = ReadyTask { runnable, meter: meter.clone(), ready_since: Instant::now() };
                queue.push(&tenant, class, length, task);
            }
        };
        let (runnable, task) = async_task::Builder::new().propagate_panic(true).spawn(|()| future, WithInfo(schedule));
        runnable.schedule();
        held_wakes::Awaited::new(task)
    }

    /// Charges a tenant for time spent on its behalf elsewhere.
    pub fn charge(&self, tenant: &TenantId, class: Class, time: Duration) {
        self.queue(tenant).lock().ring.charge(tenant, class, time);
    }

    /// Debt of a tenant in a class, in rounds of the ring: the number of rounds in which only the
    /// other tenants are served.
    pub fn debt(&self, tenant: &TenantId, class: Class) -> u32 {
        self.queue(tenant).lock().ring.debt(tenant, class)
    }

    /// Cancels a tenant's debt in a class, because the work that caused it is done.
    pub fn forgive(&self, tenant: &TenantId, class: Class) {
        self.queue(tenant).lock().ring.forgive(tenant, class);
    }

    /// Uncommitted results, which runs of their tenants may have to wait for.
    pub fn uncommitted(&self) -> &Uncommitted {
        &self.uncommitted
    }

    fn queue(&self, tenant: &TenantId) -> &Arc<RunQueue> {
        self.dedicated.get(tenant).unwrap_or(&self.shared).queue()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    };

    use super::{threads::thread_cpu, *};

    /// Computes for about this long, then yields.
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

    fn meter() -> Arc<TaskMeter> {
        Arc::default()
    }

    fn ms(meter: &TaskMeter) -> f64 {
        meter.cpu().as_secs_f64() * 1e3
    }

    #[tokio::test]
    async fn a_guest_runs_on_a_guest_thread_and_shares_it() {
        let scheduler = start(1, 0, &[]);
        let slices = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let hog = scheduler.run(&tenant("hog"), Class::Live, &meter(), {
            let (slices, done) = (slices.clone(), done.clone());
            async move {
                while !done.load(SeqCst) {
                    slices.fetch_add(1, SeqCst);
                    slice(1000).await;
                }
                std::thread::current().name().map(str::to_string)
            }
        });
        // Both progress on the one thread: the hog and the quiet tenant.
        let quiet = async move {
            for _ in 0..20 {
                slice(1000).await;
            }
            done.store(true, SeqCst);
        };
        scheduler.run(&tenant("quiet"), Class::Live, &meter(), quiet).await;
        assert_eq!(hog.await.as_deref(), Some("guest-0"));
        assert!(slices.load(SeqCst) >= 10);
    }

    #[tokio::test]
    async fn tenants_share_cpu_time_by_weight_and_class() {
        let scheduler = start(1, 0, &[("heavy", 3)]);
        let done = Arc::new(AtomicBool::new(false));
        let mut hogs = Vec::new();
        // The number of a tenant's guests and the length of their polls must not matter.
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
            // The hogs have run some slices by the time this is served.
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
        // The first and the last poll may not be shared fairly.
        for (used, share) in used.iter().zip([12.0, 4.0, 4.0, 1.0]) {
            assert!((used - all * share / 21.0).abs() <= 0.05 * all * share / 21.0 + 6.0, "{used} ms of {all}");
        }
    }

    #[tokio::test]
    async fn a_tenant_at_its_bound_on_threads_leaves_the_others_free() {
        let scheduler = start(2, 1, &[]);
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Each of these polls ends only while a poll of the other tenant runs on another thread.
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
    async fn time_charged_from_elsewhere_delays_the_tenant() {
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
        // The hog has had all its slices at the expense of the spender's debt.
        let before = ms(&cost);
        done.store(true, SeqCst);
        hog.await;
        assert!(before >= 50.0, "the spender was served after {before} ms of the hog");
    }

    #[tokio::test]
    async fn dropping_a_run_drops_its_endless_guest() {
        struct DropSignal(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for DropSignal {
            fn drop(&mut self) {
                self.0.take().unwrap().send(()).unwrap();
            }
        }
        let scheduler = start(1, 0, &[]);
        let (sender, dropped) = tokio::sync::oneshot::channel();
        let signal = DropSignal(Some(sender));
        let endless = scheduler.run(&tenant("endless"), Class::Live, &meter(), async move {
            let _signal = signal;
            loop {
                tokio::task::yield_now().await;
            }
        });
        drop(endless);
        dropped.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_resumes_where_the_run_is_awaited_and_the_thread_survives() {
        let scheduler = start(1, 0, &[]);
        let run = scheduler
            .run(&tenant("clumsy"), Class::Live, &meter(), async { assert!(thread_cpu().is_zero(), "tripped") });
        let panic = tokio::spawn(run).await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"tripped"));
        assert_eq!(scheduler.run(&tenant("clumsy"), Class::Live, &meter(), async { 1 }).await, 1);
    }

    #[tokio::test]
    async fn a_wait_is_counted_before_it_ends() {
        let scheduler = start(1, 0, &[]);
        let busy = Arc::new(AtomicBool::new(true));
        let hog_busy = busy.clone();
        let hog = scheduler.run(&tenant("hog"), Class::Live, &meter(), async move {
            while hog_busy.load(SeqCst) {
                std::hint::spin_loop();
            }
        });
        let waits = meter();
        let waiting = scheduler.run(&tenant("quiet"), Class::Live, &waits, async {});
        slice(100).await;
        let so_far = waits.waited();
        busy.store(false, SeqCst);
        hog.await;
        waiting.await;
        assert!(so_far > Duration::ZERO);
        assert!(waits.waited() >= so_far);
    }

    #[tokio::test]
    async fn a_task_pushed_while_the_thread_becomes_idle_is_served() {
        let scheduler = start(1, 0, &[]);
        for class in [Class::Live, Class::CatchUp] {
            // Each task is pushed as soon as the one before has ended. One that is missed would
            // never end.
            for _ in 0..20_000 {
                scheduler.run(&tenant("one"), class, &meter(), async {}).await;
            }
        }
    }

    #[tokio::test]
    async fn a_tenant_with_dedicated_threads_uses_only_those() {
        let config = Config { threads: 1, ..Config::default() };
        let dedicated = [(tenant("rich"), 1)].into();
        let scheduler = Scheduler::start_for(&config, BTreeMap::new(), &dedicated).unwrap();
        let where_am_i = async { std::thread::current().name().map(str::to_string) };
        // The two meet, which they could not on one shared thread.
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
