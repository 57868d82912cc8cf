//! A load generator: a shop with one large tenant, four medium and forty small ones. The large
//! tenant has 60 % of the events.
//!
//! The events come from a few tills. Each till has its own connection, and its events depend only
//! on its number, so every demo has the same events. A cart belongs to one till, so its events are
//! in order. The load is open-loop: each event has a due time, no matter how long earlier appends
//! took.

use std::time::Duration;

use anyhow::Context;
use futures_util::future::try_join_all;
use sandmill_client::{Append, NewEvent};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::db::Db;

/// Number of tills. 4: enough for a few thousand events per second.
const TILLS: u32 = 4;
/// Maximum number of open carts per tenant and till. 3: few, so that carts are checked out during
/// the demo.
const OPEN_CARTS: usize = 3;

/// The large tenant and the four medium ones, each with its share of the events, in thousandths.
const LARGE: [(&str, u32); 5] =
    [("megamart", 600), ("bookworm", 80), ("gearshed", 60), ("teahouse", 50), ("vinylbar", 40)];
/// The number of small tenants, which share the rest of the events.
const SMALL: u32 = 40;
/// The products, with prices in cents.
const PRODUCTS: [(&str, u32); 6] =
    [("mug", 499), ("teapot", 2_450), ("notebook", 320), ("lamp", 3_990), ("scarf", 1_875), ("puzzle", 1_290)];

/// The number of tenants.
pub(super) const TENANTS: usize = LARGE.len() + SMALL as usize;

/// Appends `rate` events per second until `lasting` has passed or the shop is closed. Returns the
/// number of appended events.
pub(super) async fn open(
    db: &Db,
    rate: u32,
    lasting: Option<Duration>,
    closed: &watch::Receiver<bool>,
) -> anyhow::Result<u64> {
    let began = Instant::now();
    let tills = (0..TILLS).map(|number| {
        let mut closed = closed.clone();
        let schedule = Schedule { began, rate, lasting };
        async move { work(Till::new(number), schedule, db, &mut closed).await }
    });
    let appended = try_join_all(tills).await?;
    Ok(appended.iter().sum())
}

/// The times at which events are due.
struct Schedule {
    began: Instant,
    /// Events per second, of all tills together.
    rate: u32,
    lasting: Option<Duration>,
}

impl Schedule {
    /// The due time of a till's nth event; none if the shop is closed by then.
    fn due(&self, till: u32, nth: u64) -> Option<Instant> {
        let before = nth * u64::from(TILLS) + u64::from(till);
        let after = Duration::from_secs_f64(before as f64 / f64::from(self.rate));
        self.lasting.is_none_or(|lasting| after < lasting).then(|| self.began + after)
    }
}

/// Appends the events of one till when they are due. Returns their number.
async fn work(mut till: Till, schedule: Schedule, db: &Db, closed: &mut watch::Receiver<bool>) -> anyhow::Result<u64> {
    let session = db.connect("shop").await.context("open the shop")?;
    let mut appended = 0;
    while let Some(due) = schedule.due(till.number, appended) {
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => break,
            () = sleep_until(due) => {}
        }
        let TillEvent { tenant, stream, event_type, data } = till.next();
        let append = Append::to(&tenant, &stream).event(NewEvent::new(event_type, &data));
        sandmill_client::append(&*session, &append).await.with_context(|| format!("append to {stream} of {tenant}"))?;
        appended += 1;
    }
    Ok(appended)
}

/// One event of a till.
#[derive(Debug, PartialEq)]
struct TillEvent {
    tenant: String,
    stream: String,
    event_type: &'static str,
    data: String,
}

/// The state of one till.
struct Till {
    number: u32,
    random: SplitMix64,
    carts_so_far: u32,
    /// Open carts, by tenant.
    carts: Vec<Vec<Cart>>,
}

/// An open cart.
struct Cart {
    stream: String,
    /// Product and quantity.
    items: Vec<(usize, u32)>,
}

impl Till {
    fn new(number: u32) -> Self {
        let carts = (0..TENANTS).map(|_| Vec::new()).collect();
        Till { number, random: SplitMix64(u64::from(number) + 1), carts_so_far: 0, carts }
    }

    /// The next event: an item added or removed, or a check-out.
    fn next(&mut self) -> TillEvent {
        let (index, tenant) = self.tenant();
        let carts = &mut self.carts[index];
        let taken = self.random.below(OPEN_CARTS as u32) as usize;
        if taken >= carts.len() {
            let stream = format!("cart-{}", self.carts_so_far * TILLS + self.number + 1);
            self.carts_so_far += 1;
            carts.push(Cart { stream, items: Vec::new() });
        }
        let taken = taken.min(carts.len() - 1);
        let cart = &mut carts[taken];
        let stream = cart.stream.clone();
        let event = |event_type, data| TillEvent { tenant, stream, event_type, data };
        match self.random.below(20) {
            0..3 if !cart.items.is_empty() => {
                let last = cart.items.len() - 1;
                let (product, quantity) = &mut cart.items[last];
                let (sku, price) = PRODUCTS[*product];
                *quantity -= 1;
                if *quantity == 0 {
                    cart.items.pop();
                }
                event("ItemRemoved", format!(r#"{{"sku":"{sku}","quantity":1,"price":{price}}}"#))
            }
            3..8 if !cart.items.is_empty() => {
                carts.swap_remove(taken);
                event("CartCheckedOut", "{}".into())
            }
            _ => {
                let product = self.random.below(PRODUCTS.len() as u32) as usize;
                let quantity = 1 + self.random.below(3);
                let (sku, price) = PRODUCTS[product];
                cart.items.push((product, quantity));
                event("ItemAdded", format!(r#"{{"sku":"{sku}","quantity":{quantity},"price":{price}}}"#))
            }
        }
    }

    /// Chooses a tenant: a large or medium one by its share, or else any small one.
    fn tenant(&mut self) -> (usize, String) {
        let mut ticket = self.random.below(1_000);
        for (index, (name, part)) in LARGE.iter().enumerate() {
            match ticket.checked_sub(*part) {
                None => return (index, (*name).to_owned()),
                Some(left) => ticket = left,
            }
        }
        let small = self.random.below(SMALL);
        (LARGE.len() + small as usize, format!("corner-{:02}", small + 1))
    }
}

/// A pseudo-random generator, so that every demo has the same events (SplitMix64).
struct SplitMix64(u64);

impl SplitMix64 {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 33) % u64::from(end.max(1))) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn events_of(till: u32, count: usize) -> Vec<TillEvent> {
        let mut till = Till::new(till);
        (0..count).map(|_| till.next()).collect()
    }

    #[test]
    fn tenants_have_their_shares_of_events() {
        let mut events: BTreeMap<String, u32> = BTreeMap::new();
        for event in (0..TILLS).flat_map(|till| events_of(till, 5_000)) {
            *events.entry(event.tenant).or_default() += 1;
        }
        assert_eq!(events.len(), TENANTS);
        assert!((11_500..12_500).contains(&events["megamart"]), "{events:?}");
        assert!((1_400..1_800).contains(&events["bookworm"]), "{events:?}");
        assert!((40..140).contains(&events["corner-17"]), "{events:?}");
    }

    #[test]
    fn a_cart_begins_with_an_item_and_ends_with_the_check_out() {
        let mut carts: BTreeMap<(u32, String), Vec<&str>> = BTreeMap::new();
        for till in 0..TILLS {
            for event in events_of(till, 5_000) {
                carts.entry((till, event.stream)).or_default().push(event.event_type);
            }
        }
        let streams: std::collections::BTreeSet<&String> = carts.keys().map(|(_, stream)| stream).collect();
        assert_eq!(streams.len(), carts.len(), "a cart belongs to one till");
        for (cart, events) in &carts {
            assert_eq!(events[0], "ItemAdded", "{cart:?}");
            assert!(!events[..events.len() - 1].contains(&"CartCheckedOut"), "{cart:?}: {events:?}");
        }
        let checked_out = carts.values().filter(|events| events.ends_with(&["CartCheckedOut"])).count();
        assert!(checked_out > carts.len() / 2, "{checked_out} of {}", carts.len());
    }

    #[test]
    fn events_are_due_at_equal_intervals_until_closing_time() {
        let began = Instant::now();
        let schedule = Schedule { began, rate: 100, lasting: Some(Duration::from_millis(100)) };
        let mut due: Vec<u128> = (0..TILLS)
            .flat_map(|till| (0..9).map_while(move |nth| Some((till, nth))))
            .filter_map(|(till, nth)| schedule.due(till, nth))
            .map(|due| (due - began).as_millis())
            .collect();
        due.sort_unstable();
        assert_eq!(due, (0..10).map(|n| n * 10).collect::<Vec<u128>>());
    }
}
