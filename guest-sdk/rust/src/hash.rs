//! The hash function for document ids: one multiplication per eight bytes and one per key. The
//! standard library's SipHash costs several times as much, which shows in every event of a fold.
//!
//! It does not resist ids that were chosen to collide. Such ids come from events of the batch's own
//! tenant, and the CPU time that they waste is that tenant's. SipHash would be no better: its keys
//! are secret only where there is randomness, and a plugin has none. Each batch gets its own seed,
//! so a set of ids prepared in advance rarely collides twice. Results never depend on the seed.

use std::hash::{BuildHasher, Hasher};

/// Odd, with bits in no pattern: the golden ratio's, and a prime's.
const WORD: u64 = 0x9e37_79b9_7f4a_7c15;
const LAST: u64 = 0xd6e8_feb8_6659_fd93;

/// The hash function with a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeded(pub(crate) u64);

impl BuildHasher for Seeded {
    type Hasher = WordHasher;

    #[inline]
    fn build_hasher(&self) -> WordHasher {
        WordHasher(self.0)
    }
}

/// The state of one hash.
#[derive(Debug)]
pub(crate) struct WordHasher(u64);

impl WordHasher {
    #[inline]
    fn mix(&mut self, word: u64) {
        let product = (self.0 ^ word).wrapping_mul(WORD);
        self.0 = product ^ product >> 32;
    }
}

impl Hasher for WordHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        // The last word may overlap the one before, so the length tells such texts apart.
        self.0 ^= (bytes.len() as u64).wrapping_mul(LAST);
        if let Some(last) = bytes.last_chunk::<8>() {
            let (words, rest) = bytes.as_chunks::<8>();
            words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
            if !rest.is_empty() {
                self.mix(u64::from_le_bytes(*last));
            }
        } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            self.mix(u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32);
        } else {
            self.mix(bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    #[inline]
    fn write_u8(&mut self, byte: u8) {
        self.mix(u64::from(byte));
    }

    #[inline]
    fn finish(&self) -> u64 {
        // A map uses the low bits, which so far depend little on the last bytes of a word.
        let product = self.0.wrapping_mul(LAST);
        product ^ product >> 32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn texts_that_differ_have_different_hashes() {
        let mut texts = HashSet::new();
        for length in 0..40 {
            texts.insert("a".repeat(length));
            for index in 0..length {
                for other in ["b", "A", "\0", "q"] {
                    let mut text = "a".repeat(length);
                    text.replace_range(index..=index, other);
                    texts.insert(text);
                }
            }
        }
        let hashes: HashSet<u64> = texts.iter().map(|text| Seeded(7).hash_one(text)).collect();
        assert_eq!(hashes.len(), texts.len());
        assert_ne!(Seeded(7).hash_one("a"), Seeded(8).hash_one("a"));
    }

    /// A map of 1,024 places takes ten low bits, and on WebAssembly seven bits below the 32nd to
    /// tell entries apart.
    #[test]
    fn numbered_ids_spread_over_the_places_of_a_map() {
        for ids in ["cart-{}", "{}", "00000000-0000-4000-8000-{}", "{}-x", "{}-0000000000000000", "order/{}/items"] {
            for width in [1, 3, 8] {
                let mut places = [0; 1024];
                let mut tags = [0; 128];
                for number in 0..1_000 {
                    let hash = Seeded(42).hash_one(ids.replace("{}", &format!("{number:0width$}")));
                    places[hash as usize % 1024] += 1;
                    tags[(hash >> 25) as usize % 128] += 1;
                }
                // A thousand thrown at random leave 385 places empty and fill none with over seven.
                let (empty, fullest) = (places.iter().filter(|count| **count == 0).count(), places.iter().max());
                assert!(empty < 480 && fullest < Some(&12), "{ids} {width}: {empty} empty, {fullest:?}");
                assert!(tags.iter().max() < Some(&32), "{ids} {width}: {tags:?}");
            }
        }
    }
}
