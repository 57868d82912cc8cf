//! How fast tenants append, over the last few seconds. Pure: it is told the time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// What a rate is taken over. Default 4 s: long enough that a tenant with an event a second does not flicker.
const WINDOW: Duration = Duration::from_secs(4);

/// What was appended, in all and lately. It holds one number for each tenant that appended since it began.
#[derive(Debug, Default)]
pub(super) struct Rates {
    totals: BTreeMap<String, u64>,
    /// What came until when, oldest first. The first is there for its time alone: what followed came after it.
    recent: VecDeque<(Duration, Vec<(String, u64)>)>,
}

/// How much a tenant appended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Appended {
    pub(super) tenant: String,
    pub(super) events: u64,
    pub(super) rate: f64,
}

impl Rates {
    /// Adds what came between the time before and this one.
    pub(super) fn add(&mut self, at: Duration, news: Vec<(String, u64)>) {
        for (tenant, events) in &news {
            *self.totals.entry(tenant.clone()).or_default() += events;
        }
        self.recent.push_back((at, news));
        while self.recent.get(1).is_some_and(|(second, _)| *second + WINDOW <= at) {
            self.recent.pop_front();
        }
    }

    /// Every tenant that appended, the fastest of late first, and of those that are equal the one with most in all.
    pub(super) fn busiest(&self) -> Vec<Appended> {
        let span = match (self.recent.front(), self.recent.back()) {
            (Some((from, _)), Some((to, _))) => to.saturating_sub(*from).as_secs_f64(),
            _ => 0.0,
        };
        let mut lately: BTreeMap<&str, u64> = BTreeMap::new();
        for (tenant, events) in self.recent.iter().skip(1).flat_map(|(_, news)| news) {
            *lately.entry(tenant).or_default() += events;
        }
        let rate = |tenant: &str| match lately.get(tenant) {
            Some(events) if span > 0.0 => *events as f64 / span,
            _ => 0.0,
        };
        let appended = |(tenant, events): (&String, &u64)| Appended {
            tenant: tenant.clone(),
            events: *events,
            rate: rate(tenant),
        };
        let mut all: Vec<Appended> = self.totals.iter().map(appended).collect();
        all.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.events.cmp(&a.events)).then(a.tenant.cmp(&b.tenant)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(of: &[(&str, u64)]) -> Vec<(String, u64)> {
        of.iter().map(|(tenant, events)| ((*tenant).to_owned(), *events)).collect()
    }

    fn shown(rates: &Rates) -> Vec<String> {
        rates.busiest().iter().map(|a| format!("{} {} {:.1}", a.tenant, a.events, a.rate)).collect()
    }

    #[test]
    fn rates_are_of_late_and_totals_of_all() {
        let mut rates = Rates::default();
        assert!(rates.busiest().is_empty());
        // Nobody knows how long what is there at the first look took to come.
        rates.add(Duration::from_secs(1), news(&[("a", 8)]));
        assert_eq!(shown(&rates), ["a 8 0.0"]);
        rates.add(Duration::from_secs(2), news(&[("a", 1), ("b", 3), ("c", 1)]));
        assert_eq!(shown(&rates), ["b 3 3.0", "a 9 1.0", "c 1 1.0"]);
        rates.add(Duration::from_secs(4), news(&[("b", 3)]));
        assert_eq!(shown(&rates), ["b 6 2.0", "a 9 0.3", "c 1 0.3"]);
        rates.add(Duration::from_secs(8), Vec::new());
        assert_eq!(shown(&rates), ["a 9 0.0", "b 6 0.0", "c 1 0.0"]);
    }
}
