//! A model of the log: transactions that end in any order, and the reads that see them.

use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc};

use sandmill::model::{
    cursor::{Difference, Progress, Snapshot},
    event::{Event, Page},
    ids::{LaneKey, TenantId},
};

pub(super) const LANES: usize = 4;
pub(super) const STREAMS: usize = 2;

/// Lanes by number. Each belongs to a different tenant.
pub(super) const FIRST: usize = 0;
pub(super) const SECOND: usize = 1;
pub(super) const THIRD: usize = 2;

/// A transaction, which locks its streams while it runs.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    xid: u64,
    pub(super) running: bool,
    events: Vec<Arc<Event>>,
    streams: BTreeSet<(usize, usize)>,
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) next_xid: u64,
    pub(super) next_position: i64,
    pub(super) transactions: Vec<Transaction>,
}

impl Log {
    /// Begins a transaction whose events follow from a random number.
    pub(super) fn begin_random(&mut self, random: u32) {
        let count = random as usize % 3 + 1;
        let stream = |i| ((random >> (3 + 5 * i)) as usize % LANES, (random >> (6 + 5 * i)) as usize % STREAMS);
        self.begin((0..count).map(stream), random as usize % 50);
    }

    /// Begins a transaction with an event for each lane and stream, except for streams that another
    /// transaction has locked. `bytes` is the size of each event's data.
    pub(super) fn begin(&mut self, streams: impl IntoIterator<Item = (usize, usize)>, bytes: usize) {
        let locked: BTreeSet<_> =
            self.transactions.iter().filter(|t| t.running).flat_map(|t| t.streams.clone()).collect();
        let mut transaction =
            Transaction { xid: self.next_xid, running: true, events: Vec::new(), streams: BTreeSet::new() };
        for stream in streams {
            if locked.contains(&stream) {
                continue;
            }
            transaction.streams.insert(stream);
            self.next_position += 1;
            transaction.events.push(Arc::new(Event {
                position: self.next_position,
                id: format!("{}", self.next_position).into(),
                tenant: tenant(stream.0),
                event_type: "T".into(),
                stream: stream.1.to_string().into(),
                // Versions may have gaps.
                version: self.next_position,
                recorded_at: 0,
                data: "x".repeat(bytes).into(),
                metadata: "{}".into(),
                deferred: None,
            }));
        }
        self.next_xid += 1;
        self.transactions.push(transaction);
    }

    /// Ends one of the running transactions, chosen by a random number.
    pub(super) fn end(&mut self, random: u32, commit: bool) {
        let running: Vec<usize> = (0..self.transactions.len()).filter(|i| self.transactions[*i].running).collect();
        if running.is_empty() {
            return;
        }
        let one = &mut self.transactions[running[random as usize % running.len()]];
        one.running = false;
        if !commit {
            one.events.clear();
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let running: Vec<u64> = self.transactions.iter().filter(|t| t.running).map(|t| t.xid).collect();
        let xmin = running.first().copied().unwrap_or(self.next_xid);
        let list: Vec<String> = running.iter().map(u64::to_string).collect();
        format!("{xmin}:{}:{}", self.next_xid, list.join(",")).parse().unwrap()
    }

    /// Committed events with their transactions, ordered by position.
    pub(super) fn committed(&self) -> Vec<(u64, Arc<Event>)> {
        let committed = self.transactions.iter().filter(|t| !t.running);
        let mut events: Vec<_> = committed.flat_map(|t| t.events.iter().map(|e| (t.xid, e.clone()))).collect();
        events.sort_by_key(|(_, event)| event.position);
        events
    }

    pub(super) fn difference(
        &self,
        difference: &Difference,
        tenant: Option<&TenantId>,
        limit: usize,
    ) -> Vec<Arc<Event>> {
        let inside = |(xid, event): &(u64, Arc<Event>)| {
            difference.to.sees(*xid)
                && !difference.from.sees(*xid)
                && difference.after.is_none_or(|after| event.position > after)
                && difference.up_to.is_none_or(|up_to| event.position <= up_to)
                && tenant.is_none_or(|tenant| event.tenant == *tenant)
        };
        self.committed().into_iter().filter(inside).map(|(_, event)| event).take(limit).collect()
    }

    pub(super) fn page(&self, after: &Progress, limit: usize) -> Page {
        let difference = after.remainder().unwrap_or_else(|| {
            let to = self.snapshot();
            Difference { from: after.seen().clone(), to: to.clone(), after: None, up_to: None, then: Progress::at(to) }
        });
        let events = self.difference(&difference, None, limit);
        let to = match events.last() {
            Some(last) if events.len() == limit => difference.handled_up_to(last.position),
            _ => difference.then.clone(),
        };
        Page { from: after.clone(), to, events }
    }

    /// The committed events of a lane's stream with these versions.
    pub(super) fn stream(&self, lane: &LaneKey, stream: &str, versions: RangeInclusive<i64>) -> Vec<Arc<Event>> {
        let found = self.committed().into_iter().map(|(_, event)| event);
        let is_its = |event: &Arc<Event>| event.tenant == lane.tenant && *event.stream == *stream;
        found.filter(|event| is_its(event) && versions.contains(&event.version)).collect()
    }

    /// Positions of a lane's events that a progress covers.
    pub(super) fn covered(&self, lane: &LaneKey, progress: &Progress) -> BTreeSet<i64> {
        let rest = progress.remainder();
        let covers = |(xid, event): &(u64, Arc<Event>)| {
            let inside = rest
                .as_ref()
                .is_some_and(|rest| rest.to.sees(*xid) && rest.after.is_some_and(|last| event.position <= last));
            event.tenant == lane.tenant && (progress.seen().sees(*xid) || inside)
        };
        self.committed().into_iter().filter(covers).map(|(_, event)| event.position).collect()
    }
}

pub(super) fn tenant(lane: usize) -> TenantId {
    TenantId::parse(&format!("lane{lane}")).unwrap()
}

pub(super) fn lane(tenant: &TenantId) -> LaneKey {
    LaneKey { tenant: tenant.clone(), key: tenant.as_shared() }
}
