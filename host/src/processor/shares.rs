//! The shares of a processor, as the cursors of its serving generation define them.
//!
//! So far, one share owns all buckets. More shares are refused, because this host would handle the
//! events of only one of them.

use crate::{
    db::{Error, Session},
    model::{
        ids::ProcessorId,
        share::{BucketRange, PartitionError, Share, check_partition},
    },
};

/// Why no term can begin on the shares of a processor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SharesError {
    /// Their ranges are not a partition of all buckets.
    #[error(
        "the cursors of processor {0} do not assign each bucket to exactly one share: {1}. Another program changed them; restore them from a backup"
    )]
    NotPartitioned(ProcessorId, PartitionError),
    /// There are several.
    #[error(
        "processor {0} has {1} shares, and this version of Sandmill runs only processors with one share; run the version that divided it"
    )]
    Several(ProcessorId, usize),
}

/// Reads the shares of a processor's serving generation.
pub(super) async fn serving(session: &Session, processor: &ProcessorId) -> Result<Vec<Share>, Error> {
    let rows = session.query(include_str!("shares/serving.sql"), &[&processor.as_str()]).await?;
    let share = |row: &crate::db::Row| {
        // The table's constraints ensure that every row has a range.
        let owns = BucketRange::new(row.get(2), row.get(3))?;
        Some(Share { processor: processor.clone(), generation: row.get(0), number: row.get(1), owns })
    };
    Ok(rows.iter().filter_map(share).collect())
}

/// The only share of a processor. Fails unless the ranges of its shares are a partition of all
/// buckets, and it is alone.
pub(super) fn only(processor: &ProcessorId, shares: Vec<Share>) -> Result<Share, SharesError> {
    let ranges: Vec<BucketRange> = shares.iter().map(|share| share.owns).collect();
    check_partition(&ranges).map_err(|error| SharesError::NotPartitioned(processor.clone(), error))?;
    let number = shares.len();
    match <[Share; 1]>::try_from(shares) {
        Ok([share]) => Ok(share),
        Err(_) => Err(SharesError::Several(processor.clone(), number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor() -> ProcessorId {
        ProcessorId::parse("carts").unwrap()
    }

    fn share(number: i16, first: i16, last: i16) -> Share {
        Share { processor: processor(), generation: 1, number, owns: BucketRange::new(first, last).unwrap() }
    }

    #[test]
    fn a_term_begins_only_on_a_single_share_of_all_buckets() {
        let only = |shares: &[Share]| only(&processor(), shares.to_vec());
        assert_eq!(only(&[share(0, 0, 15)]), Ok(share(0, 0, 15)));
        let unowned = |bucket| Err(SharesError::NotPartitioned(processor(), PartitionError::Unowned(bucket)));
        assert_eq!(only(&[]), unowned(0));
        assert_eq!(only(&[share(0, 0, 14)]), unowned(15));
        assert_eq!(only(&[share(0, 0, 7), share(1, 8, 15)]), Err(SharesError::Several(processor(), 2)));
    }
}
