//! Shares: the parts into which the lanes of a processor's generation are divided.
//!
//! Each share has a cursor, a fence and commits of its own. It owns a range of buckets, and so the
//! lanes whose [`bucket`](super::ids::LaneKey::bucket) lies in it. The ranges of a generation must
//! be a partition of all buckets: without an owner the events of a lane would never be handled, and
//! with two they would be handled twice. [`check_partition`] decides this.

use super::ids::{BUCKETS, ProcessorId};

/// A share: the key of its cursor's row, and the buckets that it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The processor.
    pub processor: ProcessorId,
    /// The generation: one build of the processor's documents, counted from 1.
    pub generation: i32,
    /// The share's number within the generation.
    pub number: i16,
    /// The buckets that it owns.
    pub owns: BucketRange,
}

/// A range of buckets, which is never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketRange {
    first: u8,
    last: u8,
}

impl BucketRange {
    /// All buckets.
    pub const ALL: BucketRange = BucketRange { first: 0, last: BUCKETS - 1 };

    /// The buckets from `first` to `last`, both included; none if this is not a range of buckets.
    pub fn new(first: i16, last: i16) -> Option<Self> {
        let (first, last) = (u8::try_from(first).ok()?, u8::try_from(last).ok()?);
        (first <= last && last < BUCKETS).then_some(BucketRange { first, last })
    }

    /// The first bucket, as it is stored.
    pub fn first(self) -> i16 {
        self.first.into()
    }

    /// The last bucket, as it is stored.
    pub fn last(self) -> i16 {
        self.last.into()
    }

    /// Whether it contains a bucket.
    pub fn contains(self, bucket: u8) -> bool {
        (self.first..=self.last).contains(&bucket)
    }
}

/// Why ranges of buckets are not a partition of all buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// No range contains a bucket.
    #[error("no share owns bucket {0}")]
    Unowned(u8),
    /// Several ranges contain a bucket.
    #[error("several shares own bucket {0}")]
    Overlapping(u8),
}

/// Fails unless each bucket lies in exactly one of the ranges. Names the first bucket that does
/// not.
pub fn check_partition(ranges: &[BucketRange]) -> Result<(), PartitionError> {
    for bucket in 0..BUCKETS {
        match ranges.iter().filter(|range| range.contains(bucket)).count() {
            0 => return Err(PartitionError::Unowned(bucket)),
            1 => {}
            _ => return Err(PartitionError::Overlapping(bucket)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ranges: &[(i16, i16)]) -> Result<(), PartitionError> {
        let ranges: Vec<_> = ranges.iter().map(|&(first, last)| BucketRange::new(first, last).unwrap()).collect();
        check_partition(&ranges)
    }

    #[test]
    fn ranges_that_own_each_bucket_once_are_a_partition() {
        assert_eq!(check_partition(&[BucketRange::ALL]), Ok(()));
        assert_eq!(check(&[(8, 15), (0, 7)]), Ok(()), "in any order");
        let each: Vec<(i16, i16)> = (0..i16::from(BUCKETS)).map(|bucket| (bucket, bucket)).collect();
        assert_eq!(check(&each), Ok(()));
    }

    #[test]
    fn a_bucket_without_an_owner_or_with_two_is_named() {
        assert_eq!(check(&[]), Err(PartitionError::Unowned(0)));
        assert_eq!(check(&[(0, 7)]), Err(PartitionError::Unowned(8)));
        assert_eq!(check(&[(0, 6), (8, 15)]), Err(PartitionError::Unowned(7)));
        assert_eq!(check(&[(0, 8), (8, 15)]), Err(PartitionError::Overlapping(8)));
        assert_eq!(check(&[(0, 15), (0, 15)]), Err(PartitionError::Overlapping(0)));
    }

    #[test]
    fn other_numbers_are_no_range_of_buckets() {
        for (first, last) in [(1, 0), (-1, 3), (0, 16), (300, 300)] {
            assert_eq!(BucketRange::new(first, last), None, "{first} to {last}");
        }
    }
}
