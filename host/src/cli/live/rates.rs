//! Append rates per tenant over the last few seconds. Pure: the caller passes the time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// The time over which a rate is averaged. 4 s: long enough that the rate of a tenant with one
/// event per second does not flicker.
const WINDOW: Duration = Duration::from_secs(4);

/// Appended events per tenant, in total and within the window. Keeps one total for each tenant that
/// appended since the start.
#[derive(Debug, Default)]
pub(super) struct AppendRates {
    totals: BTreeMap<String, u64>,
    /// Counts with the times at which they were read, oldest first. Only the time of the first
    /// entry is used: it is the beginning of the window.
    recent: VecDeque<(Duration, Vec<(String, u64)>)>,
}

/// The appended events of a tenant, and its rate in events per second.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TenantRate {
    pub(super) tenant: String,
    pub(super) events: u64,
    pub(super) rate: f64,
}

impl AppendRates {
    /// Adds the events that were appended between the previous time and this one.
    pub(super) fn add(&mut self, at: Duration, news: Vec<(String, u64)>) {
        for (tenant, events) in &news {
            *self.totals.entry(tenant.clone()).or_default() += events;
        }
        self.recent.push_back((at, news));
        while self.recent.get(1).is_some_and(|(second, _)| *second + WINDOW <= at) {
            self.recent.pop_front();
        }
    }

    /// All tenants that appended: highest rate first, then most events, then by name.
    pub(super) fn busiest(&self) -> Vec<TenantRate> {
        let span = match (self.recent.front(), self.recent.back()) {
            (Some((from, _)), Some((to, _))) => to.saturating_sub(*from).as_secs_f64(),
            _ => 0.0,
        };
        let mut in_window: BTreeMap<&str, u64> = BTreeMap::new();
        for (tenant, events) in self.recent.iter().skip(1).flat_map(|(_, news)| news) {
            *in_window.entry(tenant).or_default() += events;
        }
        let rate = |tenant: &str| match in_window.get(tenant) {
            Some(events) if span > 0.0 => *events as f64 / span,
            _ => 0.0,
        };
        let appended = |(tenant, events): (&String, &u64)| TenantRate {
            tenant: tenant.clone(),
            events: *events,
            rate: rate(tenant),
        };
        let mut all: Vec<TenantRate> = self.totals.iter().map(appended).collect();
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

    fn shown(rates: &AppendRates) -> Vec<String> {
        rates.busiest().iter().map(|a| format!("{} {} {:.1}", a.tenant, a.events, a.rate)).collect()
    }

    #[test]
    fn rates_cover_the_window_and_totals_cover_everything() {
        let mut rates = AppendRates::default();
        assert!(rates.busiest().is_empty());
        // The time over which the first events were appended is unknown, so there is no rate yet.
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
