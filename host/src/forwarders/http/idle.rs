//! Connections that wait for their next request.
//!
//! The one used last is taken first, so that the others can expire when load falls. Nothing runs
//! between calls: expired connections are closed at the next call, so up to [`IDLE`] of them
//! stay open when requests end altogether, until the receiver closes them.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Maximum number of idle connections of a client. 64: with answers after 20 ms, enough for more
/// than 3,000 requests a second.
const IDLE: usize = 64;
/// Time for which a connection is kept without a request. 30 s: less than the usual limit of
/// receivers and load balancers, which is a minute.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// A bounded set of idle connections.
pub(super) struct IdleConnections<C> {
    /// With the time since which each is idle, oldest first.
    kept: Mutex<VecDeque<(C, Instant)>>,
}

impl<C> Default for IdleConnections<C> {
    fn default() -> Self {
        IdleConnections { kept: Mutex::default() }
    }
}

impl<C> IdleConnections<C> {
    /// Takes the connection that was used last and is still usable. Others are closed on the way.
    pub(super) fn take(&self, now: Instant, mut is_usable: impl FnMut(&mut C) -> bool) -> Option<C> {
        loop {
            let (expired, found) = self.with_live(now, VecDeque::pop_back);
            drop(expired);
            let (mut connection, _) = found?;
            if is_usable(&mut connection) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection, unless there are enough.
    pub(super) fn put(&self, connection: C, now: Instant) {
        let _closed = self.with_live(now, |kept| {
            if kept.len() < IDLE {
                kept.push_back((connection, now));
                return None;
            }
            Some(connection)
        });
    }

    /// Changes the connections that have not expired. Also returns those that have, so that they
    /// are closed without the lock.
    fn with_live<R>(
        &self,
        now: Instant,
        change: impl FnOnce(&mut VecDeque<(C, Instant)>) -> R,
    ) -> (VecDeque<(C, Instant)>, R) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let live = kept.partition_point(|(_, since)| now.duration_since(*since) >= KEPT_FOR);
        let remaining = kept.split_off(live);
        let expired = std::mem::replace(&mut *kept, remaining);
        let result = change(&mut kept);
        (expired, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_used_last_is_taken_first() {
        let (idle, now) = (IdleConnections::default(), Instant::now());
        for connection in 1..=3 {
            idle.put(connection, now);
        }
        assert_eq!(idle.take(now, |_| true), Some(3));
        assert_eq!(idle.take(now, |connection| *connection != 2), Some(1), "2 is closed on the way");
        assert_eq!(idle.take(now, |_| true), None);
    }

    #[test]
    fn expired_and_surplus_connections_are_closed() {
        let (idle, begin) = (IdleConnections::default(), Instant::now());
        for connection in 0..2 * IDLE {
            idle.put(connection, begin);
        }
        assert_eq!(idle.kept.lock().unwrap().len(), IDLE);
        assert_eq!(idle.take(begin + KEPT_FOR / 2, |_| true), Some(IDLE - 1));
        idle.put(1_000, begin + KEPT_FOR / 2);
        assert_eq!(idle.take(begin + KEPT_FOR, |_| true), Some(1_000));
        assert_eq!(idle.kept.lock().unwrap().len(), 0);
    }
}
