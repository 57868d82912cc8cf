//! Cursors: the positions of followers in the log, as sets of visible transactions.
//!
//! A [`Snapshot`] is PostgreSQL's `pg_snapshot`: exactly the transactions whose events are visible.
//! A position alone is not a safe cursor, because positions become visible out of order. The events
//! between two snapshots are a [`Difference`], which is read by position, in pages. So a follower
//! inside a difference is described by its [`Progress`]: `(A, B, last position)`, always compared
//! and stored as a whole. Everything here is arithmetic on xids: no clock, no database.
//!
//! The method is that of PgQ (`pgq.batch_event_sql`): an event lies between A and B if its
//! transaction is visible in B and not visible in A.

use std::{fmt, str::FromStr, sync::Arc};

/// A transaction number that never wraps (`xid8`).
pub type Xid = u64;

/// A set of visible transactions: all below `xmin`, none from `xmax` on, and between them all but
/// those in progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    xmin: Xid,
    xmax: Xid,
    /// Transactions in progress when the snapshot was taken, in ascending order, each within
    /// `xmin..xmax`. Shared, because very many lanes may be at one snapshot.
    in_progress: Arc<[Xid]>,
}

impl Snapshot {
    /// The empty snapshot, where a follower of all history begins.
    pub fn nothing() -> Self {
        Snapshot { xmin: 1, xmax: 1, in_progress: Arc::default() }
    }

    /// Whether transaction `xid` is visible.
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// Whether everything visible in `other` is also visible in this snapshot.
    pub fn covers(&self, other: &Snapshot) -> bool {
        if self.xmax < other.xmax && other.sees_any_from(self.xmax) {
            return false;
        }
        self.in_progress.iter().all(|&xid| !other.sees(xid))
    }

    /// Whether some transaction at or above `xid` is visible.
    fn sees_any_from(&self, xid: Xid) -> bool {
        let from = xid.max(self.xmin);
        let hidden = self.in_progress.iter().filter(|&&x| x >= from).count() as u64;
        xid < self.xmin || self.xmax.saturating_sub(from) > hidden
    }

    /// This snapshot without some transactions. Those from `xmax` on are invisible anyway.
    pub fn without(&self, hidden: impl IntoIterator<Item = Xid>) -> Snapshot {
        let mut in_progress: Vec<Xid> = self.in_progress.iter().copied().chain(hidden).collect();
        in_progress.retain(|xid| *xid < self.xmax);
        in_progress.sort_unstable();
        in_progress.dedup();
        let xmin = in_progress.first().map_or(self.xmin, |first| self.xmin.min(*first));
        Snapshot { xmin, xmax: self.xmax, in_progress: in_progress.into() }
    }

    /// Whether nothing is visible. Xids below 3 are reserved by PostgreSQL.
    pub fn is_nothing(&self) -> bool {
        self.xmax <= 3
    }

    /// The lowest xid that may be invisible: all transactions below it have ended.
    pub fn xmin(&self) -> Xid {
        self.xmin
    }

    /// The lowest xid from which on nothing is visible.
    pub fn xmax(&self) -> Xid {
        self.xmax
    }

    /// Whether transactions were running when the snapshot was taken. Their events appear in a
    /// later difference.
    pub fn has_in_progress(&self) -> bool {
        !self.in_progress.is_empty()
    }
}

/// The error of a string that is not a snapshot, or not a progress.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not {what}")]
pub struct ParseError {
    what: &'static str,
    text: String,
}

impl FromStr for Snapshot {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || -> Option<Snapshot> {
            let mut parts = text.split(':');
            let xmin = parts.next()?.parse().ok()?;
            let xmax = parts.next()?.parse().ok()?;
            let list = parts.next()?;
            let in_progress: Arc<[Xid]> = if list.is_empty() {
                Arc::default()
            } else {
                list.split(',').map(|x| x.parse().ok()).collect::<Option<_>>()?
            };
            let rising = in_progress.windows(2).all(|w| w[0] < w[1]);
            let inside = in_progress.iter().all(|x| (xmin..xmax).contains(x));
            (parts.next().is_none() && xmin >= 1 && xmin <= xmax && rising && inside).then_some(Snapshot {
                xmin,
                xmax,
                in_progress,
            })
        };
        parse().ok_or_else(|| ParseError { what: "a snapshot (xmin:xmax:xid,xid,...)", text: text.into() })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The progress of a follower: everything visible in `seen` is handled, and inside a difference
/// also everything up to a position.
///
/// As a string it is `A||` between two differences and `A|B|last` inside one. Equal progress has
/// equal strings, and every page changes the string. So a commit that compares the whole string is
/// applied at most once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    seen: Snapshot,
    reading: Option<PartialRead>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PartialRead {
    to: Snapshot,
    last: i64,
}

/// A position below every event's.
const BEFORE_ALL: i64 = i64::MIN;

impl Progress {
    /// The progress between two differences: everything visible in `seen` is handled, nothing else.
    pub fn at(seen: Snapshot) -> Self {
        Progress { seen, reading: None }
    }

    /// The progress inside the difference from `seen` to `to`, at position `last` inclusive.
    pub fn inside(seen: Snapshot, to: Snapshot, last: i64) -> Self {
        Progress { seen, reading: Some(PartialRead { to, last }) }
    }

    /// The progress at the beginning of the difference from `seen` to `to`. The same events are
    /// handled as with [`at`](Self::at), but the next read ends at `to`. It is never stored.
    pub fn entering(seen: Snapshot, to: Snapshot) -> Self {
        Progress::inside(seen, to, BEFORE_ALL)
    }

    /// The snapshot whose visible events are all handled.
    pub fn seen(&self) -> &Snapshot {
        &self.seen
    }

    /// The end of the difference that it lies inside, if any.
    pub fn target(&self) -> Option<&Snapshot> {
        self.reading.as_ref().map(|reading| &reading.to)
    }

    /// The rest of the difference that it lies inside, if any.
    pub fn remainder(&self) -> Option<Difference> {
        let reading = self.reading.as_ref()?;
        Some(Difference {
            from: self.seen.clone(),
            to: reading.to.clone(),
            after: (reading.last > BEFORE_ALL).then_some(reading.last),
            up_to: None,
            then: Progress::at(reading.to.clone()),
        })
    }

    /// Whether it lies between two differences, and so consists of one snapshot.
    pub fn is_boundary(&self) -> bool {
        self.reading.is_none()
    }

    /// This progress, sharing the memory of snapshots that it has in common with `other`.
    pub fn sharing(mut self, other: &Progress) -> Progress {
        let target = self.reading.as_mut().map(|reading| &mut reading.to);
        for snapshot in [Some(&mut self.seen), target].into_iter().flatten() {
            let same = [Some(&other.seen), other.target()].into_iter().flatten().find(|known| *known == snapshot);
            if let Some(known) = same {
                *snapshot = known.clone();
            }
        }
        self
    }

    /// The differences that a follower at `self` must read, in this order, to reach `target`. Empty
    /// if it has reached it.
    ///
    /// `target` must be ahead of `self` on the same chain of snapshots, as the tail is ahead of a
    /// lane that it left behind.
    pub fn hops_to(&self, target: &Progress) -> Vec<Difference> {
        if self == target {
            return Vec::new();
        }
        let mut hops = Vec::new();
        let mut at = self.seen.clone();
        if let Some(mut rest) = self.remainder() {
            if let Some(reading) = &target.reading
                && target.seen == self.seen
                && rest.to == reading.to
            {
                rest.up_to = Some(reading.last);
                rest.then = target.clone();
                return vec![rest];
            }
            at = rest.to.clone();
            hops.push(rest);
        }
        if at != target.seen {
            hops.push(Difference {
                from: at,
                to: target.seen.clone(),
                after: None,
                up_to: None,
                then: Progress::at(target.seen.clone()),
            });
        }
        if let Some(reading) = &target.reading {
            hops.push(Difference {
                from: target.seen.clone(),
                to: reading.to.clone(),
                after: None,
                up_to: Some(reading.last),
                then: target.clone(),
            });
        }
        hops
    }
}

impl FromStr for Progress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let invalid = || ParseError { what: "a progress (A|B|last position)", text: text.into() };
        let parts: Vec<&str> = text.split('|').collect();
        match parts[..] {
            [seen, "", ""] => Ok(Progress::at(seen.parse()?)),
            [seen, to, last] => Ok(Progress::inside(seen.parse()?, to.parse()?, last.parse().map_err(|_| invalid())?)),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reading {
            None => write!(f, "{}||", self.seen),
            Some(reading) => write!(f, "{}|{}|{}", self.seen, reading.to, reading.last),
        }
    }
}

/// The events that are visible in `to` and not in `from`, by position, within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The snapshot whose visible events are excluded.
    pub from: Snapshot,
    /// The snapshot whose visible events are included.
    pub to: Snapshot,
    /// The position above which reading begins; none at the beginning of a difference, whose lowest
    /// position is not known yet.
    pub after: Option<i64>,
    /// The last position to read; none to read all.
    pub up_to: Option<i64>,
    /// The progress of a follower that has handled the whole difference.
    pub then: Progress,
}

impl Difference {
    /// The progress of a follower that has handled it up to and including `position`.
    pub fn handled_up_to(&self, position: i64) -> Progress {
        Progress::inside(self.from.clone(), self.to.clone(), position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    fn progress(text: &str) -> Progress {
        text.parse().unwrap()
    }

    #[test]
    fn texts_survive_a_round_trip() {
        for text in ["1:1:", "740:745:", "740:745:740,742"] {
            assert_eq!(snapshot(text).to_string(), text);
        }
        for text in ["1:1:||", "740:745:742||", "740:745:742|760:760:|99", "1:1:|5:5:|-1"] {
            assert_eq!(progress(text).to_string(), text);
        }
    }

    #[test]
    fn invalid_texts_are_rejected_and_quoted() {
        for text in ["", "1", "1:1", "5:4:", "1:9:9", "1:9:5,4", "0:1:", "1:2::", "1:1:||3x", "1:1:|", "a:1:", "1:1:x"]
        {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
            assert!(text.parse::<Progress>().is_err(), "{text}");
        }
        assert_eq!(
            "5:4:".parse::<Snapshot>().unwrap_err().to_string(),
            "`5:4:` is not a snapshot (xmin:xmax:xid,xid,...)"
        );
    }

    #[test]
    fn visibility_follows_postgresqls_rules() {
        let s = snapshot("10:20:10,12");
        assert!(s.sees(9) && !s.sees(10) && s.sees(11) && !s.sees(12) && s.sees(19) && !s.sees(20));
        assert!(!Snapshot::nothing().sees(3));
    }

    /// Compares `covers` with its definition, for every pair of small snapshots.
    #[test]
    fn covers_means_sees_all_that_the_other_sees() {
        let mut all = Vec::new();
        for xmin in 1..5u64 {
            for xmax in xmin..6 {
                for mask in 0..1u32 << (xmax - xmin) {
                    let list: Box<[Xid]> = (xmin..xmax).filter(|x| mask >> (x - xmin) & 1 == 1).collect();
                    all.push(Snapshot { xmin, xmax, in_progress: list.into() });
                }
            }
        }
        for a in &all {
            for b in &all {
                let expected = (1..10).all(|x| !b.sees(x) || a.sees(x));
                assert_eq!(a.covers(b), expected, "{a} covers {b}");
            }
        }
    }

    #[test]
    fn without_hides_exactly_the_given_transactions() {
        let without = |s: &str, hidden: &[Xid]| snapshot(s).without(hidden.iter().copied()).to_string();
        assert_eq!(without("740:745:742", &[]), "740:745:742");
        assert_eq!(without("740:745:742", &[3, 742, 5, 745]), "3:745:3,5,742");
        assert_eq!(without("745:745:", &[3]), "3:745:3");
    }

    #[test]
    fn hops_lead_from_anywhere_to_the_tail() {
        let (a, b, c) = ("10:10:", "15:20:15", "30:30:");
        let hops = |from: &str, to: &str| -> Vec<String> {
            progress(from)
                .hops_to(&progress(to))
                .iter()
                .map(|d| format!("{}>{} {:?}..{:?} then {}", d.from, d.to, d.after, d.up_to, d.then))
                .collect()
        };
        assert!(hops(&format!("{a}||"), &format!("{a}||")).is_empty());
        assert_eq!(hops(&format!("{a}||"), &format!("{b}||")), [format!("{a}>{b} None..None then {b}||")]);
        assert_eq!(
            hops(&format!("{a}|{b}|7"), &format!("{a}|{b}|9")),
            [format!("{a}>{b} Some(7)..Some(9) then {a}|{b}|9")]
        );
        assert_eq!(
            hops(&format!("{a}|{b}|7"), &format!("{b}|{c}|40")),
            [format!("{a}>{b} Some(7)..None then {b}||"), format!("{b}>{c} None..Some(40) then {b}|{c}|40")]
        );
        assert_eq!(
            hops(&format!("{a}||"), &format!("{b}|{c}|40")),
            [format!("{a}>{b} None..None then {b}||"), format!("{b}>{c} None..Some(40) then {b}|{c}|40")]
        );
    }
}
