//! Names and ids, parsed once at the edge. Downstream code may trust them.

use std::{fmt, sync::Arc};

/// The error of an invalid name. It is displayed with the rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{given}` is not a valid {what}: {rule}")]
pub struct InvalidName {
    what: &'static str,
    rule: &'static str,
    given: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name, or returns the rule that it breaks.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                let valid: fn(&[u8]) -> bool = $valid;
                if valid(text.as_bytes()) {
                    Ok($name(text.into()))
                } else {
                    let given = text.chars().take(80).collect();
                    Err(InvalidName { what: $what, rule: $rule, given })
                }
            }

            /// The name as a string.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as a string that shares its bytes.
            pub fn as_shared(&self) -> Arc<str> {
                self.0.clone()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                $name::parse(text)
            }
        }
    };
}

name!(
    /// A tenant's name. A tenant is the customer that an event belongs to: the unit of isolation
    /// and fairness.
    TenantId,
    "tenant name",
    "1 to 64 ASCII letters, digits, dots, underscores or hyphens, beginning with a letter or digit",
    |name| (1..=64).contains(&name.len())
        && name[0].is_ascii_alphanumeric()
        && name.iter().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(c))
);

name!(
    /// The id that a plugin gives itself. The processors of one plugin for several tenants are a
    /// family and share this id.
    FamilyId,
    "processor id",
    "1 to 63 lowercase ASCII letters, digits or hyphens, beginning with a letter",
    |name| (1..=63).contains(&name.len())
        && name[0].is_ascii_lowercase()
        && name.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
);

name!(
    /// The name of a collection of documents. Its rule makes it safe to insert into SQL unquoted.
    CollectionName,
    "collection name",
    "1 to 48 lowercase ASCII letters, digits or underscores, beginning with a letter",
    |name| (1..=48).contains(&name.len())
        && name[0].is_ascii_lowercase()
        && name.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'_')
);

/// Whether a text is a valid document id.
pub fn is_document_id(id: &str) -> bool {
    (1..=512).contains(&id.len()) && !id.contains('\0')
}

/// A processor's id, which its cursor and its documents refer to. `orders` is shared by all
/// tenants, `acme/orders` is tenant acme's own.
///
/// Neither part holds a `/`, so no two processors share an id. An id has up to 128 bytes, but
/// PostgreSQL cuts identifiers and application names at 63 without an error. So nothing in a
/// database may be named after an id, or be found by such a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessorId {
    text: Arc<str>,
    owner: Option<TenantId>,
    family: FamilyId,
}

impl ProcessorId {
    /// Parses an id, or returns the rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        match text.split_once('/') {
            None => Ok(FamilyId::parse(text)?.into()),
            Some((tenant, family)) => {
                Ok(ProcessorId::from(FamilyId::parse(family)?).owned_by(&TenantId::parse(tenant)?))
            }
        }
    }

    /// The id of the same plugin's processor for one tenant alone.
    pub fn owned_by(&self, tenant: &TenantId) -> Self {
        let text = format!("{tenant}/{}", self.family).into();
        ProcessorId { text, owner: Some(tenant.clone()), family: self.family.clone() }
    }

    /// The id as it is stored and displayed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The tenant that owns it; none if it is shared.
    pub fn owner(&self) -> Option<&TenantId> {
        self.owner.as_ref()
    }

    /// The id that its plugin gives itself.
    pub fn family(&self) -> &FamilyId {
        &self.family
    }
}

impl From<FamilyId> for ProcessorId {
    fn from(family: FamilyId) -> Self {
        ProcessorId { text: family.as_shared(), owner: None, family }
    }
}

impl fmt::Display for ProcessorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for ProcessorId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        ProcessorId::parse(text)
    }
}

/// The key of a lane: one processor's ordered work for one partition key of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneKey {
    /// The tenant of the lane's events.
    pub tenant: TenantId,
    /// The partition key: the tenant's name again, or what the processor's partitioning selects.
    pub key: Arc<str>,
}

/// Number of buckets over which a processor's lanes are spread. Each bucket has its own cursor row.
pub const BUCKETS: u8 = 16;

impl LaneKey {
    /// The lane's bucket, `0..BUCKETS`. Part of the stored layout: it must never change.
    ///
    /// FNV-1a with 64 bits (Fowler, Noll, Vo; parameters of draft-eastlake-fnv). The upper bits are
    /// folded in, because they mix better than the lower ones. A zero byte separates tenant and
    /// key.
    pub fn bucket(&self) -> u8 {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let bytes = self.tenant.as_str().bytes().chain([0]).chain(self.key.bytes());
        for byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        ((hash ^ (hash >> 32)) % u64::from(BUCKETS)) as u8
    }
}

impl fmt::Display for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.key == *self.tenant.as_str() {
            write!(f, "tenant {}", self.tenant)
        } else {
            write!(f, "tenant {} key {}", self.tenant, self.key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_against_their_rules() {
        for good in ["a", "A9", "acme.co_1-x", &"x".repeat(64)] {
            assert!(TenantId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "ä", &"x".repeat(65), "a/b", "a\0"] {
            assert!(TenantId::parse(bad).is_err(), "{bad}");
        }
        assert!(ProcessorId::parse("route-performance").is_ok());
        assert!(ProcessorId::parse("Route").is_err() && ProcessorId::parse("9a").is_err());
        assert!(CollectionName::parse("route_performance").is_ok());
        assert!(CollectionName::parse("a\"; drop").is_err() && CollectionName::parse(&"a".repeat(49)).is_err());
        assert_eq!(
            TenantId::parse("-").unwrap_err().to_string(),
            "`-` is not a valid tenant name: 1 to 64 ASCII letters, digits, dots, underscores or hyphens, \
             beginning with a letter or digit"
        );
    }

    #[test]
    fn the_id_of_a_tenants_own_processor_is_unique() {
        let owned = |tenant: &str, family: &str| {
            ProcessorId::parse(family).unwrap().owned_by(&TenantId::parse(tenant).unwrap())
        };
        let acme = owned("acme", "cart-summary");
        assert_eq!((acme.as_str(), acme.family().as_str()), ("acme/cart-summary", "cart-summary"));
        assert_eq!(acme.owner().map(TenantId::as_str), Some("acme"));
        assert_eq!(ProcessorId::parse("cart-summary").unwrap().owner(), None);
        // Pairs that collide if the parts are joined by hyphens, lowercased, hashed to 32 bits or
        // cut.
        let long = |last: char| format!("{}{last}", "x".repeat(63));
        let pairs = [
            (owned("globex", "p--acme"), owned("acme--globex", "p")),
            (owned("Acme", "p"), owned("acme", "p")),
            (owned("acme.eu", "p"), owned("acme-eu", "p")),
            (owned(&long('a'), &long('p')[..63]), owned(&long('b'), &long('p')[..63])),
        ];
        for (one, other) in pairs {
            assert_ne!(one, other);
            assert_ne!(one.as_str(), other.as_str());
            assert_eq!(ProcessorId::parse(one.as_str()), Ok(one));
        }
        for bad in ["/p", "acme/", "acme/p/q", "-acme/p", "acme/P", "acme/p--\0", &format!("{}/p", "x".repeat(65))] {
            assert!(ProcessorId::parse(bad).is_err(), "{bad}");
        }
        assert!(FamilyId::parse("acme/p").is_err(), "a plugin cannot name itself another tenant's");
    }

    fn lane(tenant: &str, key: &str) -> LaneKey {
        LaneKey { tenant: TenantId::parse(tenant).unwrap(), key: key.into() }
    }

    /// These numbers are part of the stored layout.
    #[test]
    fn buckets_never_change() {
        let buckets: Vec<u8> = ["UA", "AA", "B6", "DL"].iter().map(|t| lane(t, t).bucket()).collect();
        assert_eq!(buckets, FROZEN);
    }
    const FROZEN: [u8; 4] = [1, 7, 11, 2];

    #[test]
    fn buckets_are_filled_evenly() {
        let mut counts = [0u32; BUCKETS as usize];
        for i in 0..16_000 {
            let tenant = format!("tenant-{i}");
            counts[usize::from(lane(&tenant, &tenant).bucket())] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}
