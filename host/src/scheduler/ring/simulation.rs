//! A simulation of the ring with a simulated clock and threads, over many seeds. It shows fair
//! shares by weight and class, short waits for quiet tenants, and bounds on threads and debt.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

const MS: u64 = 1_000_000;
/// Weights of live work, catching up and rebuilding.
const CLASSES: [u32; 3] = [8, 2, 1];

/// A generator of pseudorandom numbers: splitmix64 (Steele, Lea, Flood: "Fast splittable
/// pseudorandom number generators").
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }
}

/// The behaviour of a tenant's tasks. Each computes for a time within `polls`, then waits for one
/// within `waits`. A task that waits for no time only yields.
#[derive(Clone, Debug)]
struct Workload {
    weight: u32,
    class: Class,
    tasks: usize,
    polls: (u64, u64),
    waits: (u64, u64),
}

const HOG: Workload =
    Workload { weight: 1, class: Class::Live, tasks: 1, polls: (MS * 9 / 10, MS * 15 / 10), waits: (0, 0) };
const QUIET: Workload =
    Workload { weight: 1, class: Class::Live, tasks: 1, polls: (MS / 20, MS / 2), waits: (100 * MS, 300 * MS) };

/// What a tenant got in a simulation: nanoseconds of CPU time and of waits.
#[derive(Debug, Default)]
struct SimulatedUse {
    cpu: u64,
    waits: Vec<u64>,
    most_at_once: usize,
}

fn name(tenant: usize) -> TenantId {
    TenantId::parse(&format!("t{tenant}")).unwrap()
}

/// A step of the simulation: a task of a tenant wakes, or ends its poll on a thread.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SimulationStep {
    Wakes(usize),
    Ends { number: u64, tenant: usize, began: u64 },
}

/// Runs tenants on `threads` up to the time `until`, each on at most `tenant_threads`.
fn simulate(seed: u64, tenants: &[Workload], threads: usize, tenant_threads: usize, until: u64) -> Vec<SimulatedUse> {
    simulate_long(seed, tenants, [threads, tenant_threads, threads], until)
}

/// The same with a bound on the long tasks that compute at once.
fn simulate_long(
    seed: u64,
    tenants: &[Workload],
    [threads, tenant_threads, long_threads]: [usize; 3],
    until: u64,
) -> Vec<SimulatedUse> {
    let mut random = SplitMix(seed);
    let weights = tenants.iter().enumerate().map(|(number, tenant)| (name(number), tenant.weight)).collect();
    let mut ring = Ring::new(weights, CLASSES, tenant_threads, long_threads);
    let mut usages: Vec<SimulatedUse> = tenants.iter().map(|_| SimulatedUse::default()).collect();
    let mut computing = vec![0; tenants.len()];
    let mut agenda = BinaryHeap::new();
    let mut grants = HashMap::new();
    for (number, tenant) in tenants.iter().enumerate() {
        for _ in 0..tenant.tasks {
            agenda.push(Reverse((random.within(0, tenant.waits.1.max(MS)), SimulationStep::Wakes(number))));
        }
    }
    let (mut free, mut polls) = (threads, 0);
    while let Some(Reverse((now, step))) = agenda.pop()
        && now < until
    {
        match step {
            SimulationStep::Wakes(tenant) => {
                ring.push(&name(tenant), tenants[tenant].class, Length::Short, (tenant, now));
            }
            SimulationStep::Ends { number, tenant, began } => {
                let (low, high) = tenants[tenant].waits;
                let wait = random.within(low, high);
                // As on a thread: a task that yields is pushed before its poll is charged.
                if wait == 0 {
                    ring.push(&name(tenant), tenants[tenant].class, Length::Long, (tenant, now));
                } else {
                    agenda.push(Reverse((now + wait, SimulationStep::Wakes(tenant))));
                }
                ring.finish(grants.remove(&number).unwrap(), Duration::from_nanos(now - began));
                usages[tenant].cpu += now - began;
                computing[tenant] -= 1;
                free += 1;
            }
        }
        while free > 0
            && let Some((grant, (tenant, since))) = ring.next()
        {
            let usage = &mut usages[tenant];
            usage.waits.push(now - since);
            computing[tenant] += 1;
            usage.most_at_once = usage.most_at_once.max(computing[tenant]);
            let (low, high) = tenants[tenant].polls;
            polls += 1;
            grants.insert(polls, grant);
            agenda.push(Reverse((
                now + random.within(low, high),
                SimulationStep::Ends { number: polls, tenant, began: now },
            )));
            free -= 1;
        }
        assert!(free == 0 || ring.servable() == 0, "a thread is idle while a task could compute");
    }
    usages
}

/// Checks that each tenant has its share of the CPU time of all, within a relative tolerance.
fn assert_shares(usages: &[SimulatedUse], shares: &[u64], tolerance: f64, what: &str) {
    let (cpu, all): (u64, u64) = (usages.iter().map(|usage| usage.cpu).sum(), shares.iter().sum());
    for (usage, share) in usages.iter().zip(shares) {
        let due = cpu as f64 * *share as f64 / all as f64;
        let off = (usage.cpu as f64 - due).abs() / due;
        assert!(off <= tolerance, "{what}: {} ms of CPU instead of {:.0}", usage.cpu / MS, due / MS as f64);
    }
}

#[test]
fn tenants_of_equal_weight_get_equal_time_for_any_length_and_number_of_tasks() {
    for seed in 0..60 {
        let mut random = SplitMix(seed);
        let threads = random.within(1, 4) as usize;
        let hogs: Vec<Workload> = (0..threads as u64 + random.within(1, 9))
            .map(|_| {
                let shortest = random.within(MS / 20, 2 * MS);
                Workload {
                    tasks: random.within(1, 40) as usize,
                    polls: (shortest, shortest + random.within(0, 4 * MS)),
                    ..HOG
                }
            })
            .collect();
        let usages = simulate(seed, &hogs, threads, threads, 8_000 * MS);
        assert_shares(&usages, &vec![1; hogs.len()], 0.1, &format!("seed {seed}, {threads} threads, {hogs:?}"));
    }
}

#[test]
fn weight_three_gets_three_times_as_much() {
    for seed in 0..40 {
        let threads = 1 + seed as usize % 3;
        let mut tenants = vec![HOG; 4 + 3 * threads];
        tenants[0] = Workload { weight: 3, tasks: 1 + seed as usize % 2, ..HOG };
        let shares: Vec<u64> = tenants.iter().map(|tenant| tenant.weight.into()).collect();
        let usages = simulate(seed, &tenants, threads, threads, 8_000 * MS);
        assert_shares(&usages, &shares, 0.15, &format!("seed {seed}, {threads} threads"));
    }
}

#[test]
fn a_quiet_tenant_waits_at_most_for_one_slice_of_each_hog() {
    for seed in 0..40 {
        let threads = 1 + seed as usize % 3;
        let hogs = 1 + seed as usize % 12;
        let mut tenants = vec![Workload { tasks: 1 + seed as usize % 30, ..HOG }; hogs];
        tenants.extend(vec![QUIET; 50]);
        let usages = simulate(seed, &tenants, threads, threads, 5_000 * MS);
        let mut waits: Vec<u64> = usages[hogs..].iter().flat_map(|usage| usage.waits.clone()).collect();
        waits.sort_unstable();
        let what = format!("seed {seed}, {threads} threads, {hogs} hogs");
        let longest = waits.last().unwrap();
        // Some quiet tenants are ahead of it: in these runs never more than ten.
        let bound = HOG.polls.1 * hogs as u64 + QUIET.polls.1 * 10;
        assert!(*longest <= bound, "{what}: {} µs at most", longest / 1000);
        // Most hogs have used up their credit, so the quiet tenant is next at the end of a slice.
        let most = waits[waits.len() * 99 / 100];
        assert!(most <= 3 * MS, "{what}: {} µs in 99 of 100 cases", most / 1000);
    }
}

#[test]
fn coming_and_going_gains_no_time() {
    // The tasks are away just long enough to be idle, to get a fresh quantum each time.
    for (seed, rest) in [MS / 1000, MS / 100, MS / 10].into_iter().enumerate() {
        for threads in 1..=2 {
            let intermittent = Workload { tasks: 8, polls: (MS / 5, MS * 9 / 10), waits: (rest, 2 * rest), ..HOG };
            let tenants = [intermittent, HOG, HOG, HOG, HOG];
            let usages = simulate(seed as u64, &tenants, threads, threads, 4_000 * MS);
            assert_shares(&usages, &[1; 5], 0.1, &format!("rest {rest}, {threads} threads"));
        }
    }
}

#[test]
fn classes_share_a_tenants_time_by_weight() {
    let of = |class| Workload { class, tasks: 3, ..HOG };
    for threads in 1..=2 {
        let tenants = [of(Class::Live), of(Class::CatchUp), of(Class::Rebuild)];
        let usages = simulate(7, &tenants, threads, threads, 8_000 * MS);
        assert_shares(&usages, &[8, 2, 1], 0.1, &format!("{threads} threads"));
    }

    let mut ring = Ring::new(BTreeMap::new(), CLASSES, 1, 1);
    let mut served = [0; 3];
    for class in Class::ALL {
        ring.push(&name(0), class, Length::Short, class);
    }
    for _ in 0..11_000 {
        let (grant, class) = ring.next().unwrap();
        served[class as usize] += 1;
        ring.push(&name(0), class, Length::Short, class);
        ring.finish(grant, Duration::from_millis(1));
    }
    assert_eq!(served.map(|polls: u32| polls.div_ceil(100)), [80, 20, 10]);
}

#[test]
fn a_tenant_uses_all_the_threads_that_it_may_and_no_more() {
    for seed in 0..10 {
        let tenants = [Workload { tasks: 50, ..HOG }, Workload { tasks: 50, ..HOG }, QUIET];
        let usages = simulate(seed, &tenants, 4, 2, 500 * MS);
        assert_eq!(usages.iter().map(|usage| usage.most_at_once).collect::<Vec<_>>(), [2, 2, 1]);
        // A tenant that is alone leaves a thread free, for others that may come.
        let usages = simulate(seed, &tenants[..1], 4, 3, 500 * MS);
        assert_eq!(usages[0].most_at_once, 3);
        // The bound is over all classes of the tenant together.
        let mut ring = Ring::new(BTreeMap::new(), CLASSES, 2, 2);
        for class in Class::ALL {
            ring.push(&name(0), class, Length::Short, class);
        }
        let (first, _second) = (ring.next().unwrap().0, ring.next().unwrap().0);
        assert!(ring.next().is_none());
        ring.finish(first, Duration::ZERO);
        assert!(ring.next().is_some() && ring.next().is_none());
    }
}

#[test]
fn a_new_task_finds_a_thread_that_is_free_of_long_tasks() {
    for seed in 0..30 {
        // Ten hogs on two of three threads: quiet tenants wait only for each other, and the hogs
        // get equal shares.
        let hogs = 10;
        let tenants: Vec<Workload> = (0..60).map(|number| if number < hogs { HOG } else { QUIET }).collect();
        let usages = simulate_long(seed, &tenants, [3, 2, 2], 2_000 * MS);
        let waits: Vec<u64> = usages[hogs..].iter().flat_map(|usage| usage.waits.iter().copied()).collect();
        // 50 tasks of about 0.3 ms every 200 ms use less than a tenth of the third thread.
        let late = waits.iter().filter(|wait| **wait > MS / 2).count();
        assert!(late * 50 < waits.len(), "{late} of {} waited", waits.len());
        assert_shares(&usages[..hogs], &[1; 10], 0.1, "hogs");
        // Without the bound they wait for slices to end.
        let usages = simulate_long(seed, &tenants, [3, 2, 3], 2_000 * MS);
        let waits = usages[hogs..].iter().flat_map(|usage| usage.waits.iter());
        assert!(waits.filter(|wait| **wait > MS / 2).count() > 10 * late);
    }
}

/// Serves `count` slices of a millisecond, pushing each task again, and returns their tenants.
fn slices(ring: &mut Ring<usize>, count: usize) -> Vec<usize> {
    let mut served = Vec::new();
    for _ in 0..count {
        let (grant, tenant) = ring.next().unwrap();
        served.push(tenant);
        ring.push(&name(tenant), Class::Live, Length::Short, tenant);
        ring.finish(grant, Duration::from_millis(1));
    }
    served
}

#[test]
fn debt_outlives_an_empty_queue_and_credit_does_not() {
    let mut ring = Ring::new(BTreeMap::new(), CLASSES, 1, 1);
    for tenant in [0, 1] {
        ring.push(&name(tenant), Class::Live, Length::Short, tenant);
    }
    let (grant, tenant) = ring.next().unwrap();
    assert_eq!(tenant, 0);
    // It overruns by far and has no further task.
    ring.finish(grant, Duration::from_millis(6));
    assert_eq!(slices(&mut ring, 2), [1, 1]);
    ring.push(&name(0), Class::Live, Length::Short, 0);
    assert_eq!(slices(&mut ring, 6), [1, 1, 1, 1, 0, 1], "served once the other has had as much");

    // Conversely, a tenant that was away for a hundred slices is only one slice ahead.
    let mut ring = Ring::new(BTreeMap::new(), CLASSES, 1, 1);
    ring.push(&name(0), Class::Live, Length::Short, 0);
    let (grant, _) = ring.next().unwrap();
    ring.finish(grant, Duration::from_micros(100));
    ring.push(&name(1), Class::Live, Length::Short, 1);
    slices(&mut ring, 100);
    ring.push(&name(0), Class::Live, Length::Short, 0);
    assert_eq!(slices(&mut ring, 6), [0, 1, 0, 1, 0, 1]);
}

#[test]
fn a_charge_becomes_debt_and_debt_is_bounded() {
    let mut ring = Ring::new(BTreeMap::new(), CLASSES, 1, 1);
    ring.push(&name(1), Class::Live, Length::Short, 1);
    ring.charge(&name(0), Class::Live, Duration::from_millis(5));
    ring.push(&name(0), Class::Live, Length::Short, 0);
    assert_eq!(slices(&mut ring, 7), [1, 1, 1, 1, 1, 1, 0]);

    ring.charge(&name(0), Class::Live, Duration::from_secs(3_600));
    let served = slices(&mut ring, MAX_DEBT as usize + 2);
    assert_eq!(served.iter().filter(|tenant| **tenant == 0).count(), 1);
    // A tenant whose debt is forgiven is served like any other.
    let mut ring = Ring::new(BTreeMap::new(), CLASSES, 1, 1);
    ring.push(&name(1), Class::Live, Length::Short, 1);
    ring.charge(&name(0), Class::Live, Duration::from_millis(100));
    ring.push(&name(0), Class::Live, Length::Short, 0);
    assert_eq!((ring.debt(&name(0), Class::Live), ring.debt(&name(1), Class::Live)), (99, 0));
    ring.forgive(&name(0), Class::Live);
    assert_eq!(ring.debt(&name(0), Class::Live), 0);
    assert_eq!(slices(&mut ring, 5), [1, 1, 0, 1, 0]);
    // A tenant in debt that is alone does not wait.
    let mut ring = Ring::new(BTreeMap::new(), CLASSES, 1, 1);
    ring.charge(&name(0), Class::Live, Duration::from_secs(3_600));
    ring.push(&name(0), Class::Live, Length::Short, 0);
    assert_eq!(slices(&mut ring, 1), [0]);
}

#[test]
fn an_idle_tenant_leaves_the_ring() {
    let mut ring = Ring::new(BTreeMap::new(), CLASSES, 1, 1);
    for tenant in 0..10_000 {
        ring.push(&name(tenant), Class::Live, Length::Short, tenant);
    }
    let mut grants: Vec<Grant> = std::iter::from_fn(|| ring.next().map(|(grant, _)| grant)).collect();
    assert_eq!((grants.len(), ring.tenants()), (10_000, 10_000));
    let last = grants.pop().unwrap();
    for grant in grants {
        ring.finish(grant, Duration::from_micros(200));
    }
    assert!(ring.next().is_none());
    assert_eq!((ring.tenants(), ring.ring.len(), ring.free.len()), (1, 1, 9_999));
    // The tenant in debt stays until later rounds have paid it.
    ring.finish(last, Duration::from_millis(3));
    ring.push(&name(1), Class::Live, Length::Short, 1);
    assert_eq!(slices(&mut ring, 2), [1, 1]);
    assert_eq!(ring.tenants(), 2);
    slices(&mut ring, 2);
    assert_eq!(ring.tenants(), 1);
}
