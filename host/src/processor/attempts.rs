//! The number of attempts at an event. Pure.
//!
//! Attempts are counted for the event before which a lane stops. Only the first event of a piece of
//! work may have been attempted before: a lane that stopped continues with the event that failed.

/// Earlier attempts at the event with this index, in work whose first event was attempted `first`
/// times.
pub(super) fn earlier(first: u32, index: usize) -> u32 {
    if index == 0 { first } else { 0 }
}

/// The same, after one more attempt at that event.
pub(super) fn with_this(first: u32, index: usize) -> u32 {
    earlier(first, index).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_event_was_attempted_before() {
        assert_eq!([earlier(7, 0), earlier(7, 1), earlier(7, 9)], [7, 0, 0]);
        assert_eq!([with_this(7, 0), with_this(7, 1), with_this(u32::MAX, 0)], [8, 1, u32::MAX]);
    }
}
