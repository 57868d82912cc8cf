//! A tenant's own processors that replace shared ones.
//!
//! `acme/orders` replaces the shared `orders` for acme. While it runs, acme's lanes in `orders`
//! wait as if they were paused, with [`REPLACED`] as their reason. Their checkpoints keep their
//! progress, so `orders` continues from there when `acme/orders` is removed, and loses nothing.
//! Each of the two processors has its own documents, which its own progress covers.

use std::collections::BTreeSet;

use crate::model::{
    handler::Reason,
    ids::{ProcessorId, TenantId},
};

/// The reason class of lanes that wait because their tenant's own processor replaces the shared
/// one. Queries that count waiting lanes leave it out.
pub const REPLACED: &str = "replaced";

/// The tenants' own processors of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replacements {
    changes: u64,
    own: BTreeSet<ProcessorId>,
}

impl Replacements {
    /// Number of changes so far. Readers report it to show which set they have applied.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The tenants for which a processor is replaced, each with its own processor.
    pub fn of<'a>(&'a self, processor: &'a ProcessorId) -> impl Iterator<Item = (&'a TenantId, &'a ProcessorId)> {
        let own = self.own.iter().filter(move |own| processor.owner().is_none() && own.family() == processor.family());
        own.filter_map(|own| Some((own.owner()?, own)))
    }

    /// Sets the tenants' own processors. Returns whether the set changed.
    pub(super) fn replace(&mut self, own: BTreeSet<ProcessorId>) -> bool {
        if self.own == own {
            return false;
        }
        (self.own, self.changes) = (own, self.changes + 1);
        true
    }
}

/// The reason of a lane whose tenant's own processor replaces the shared one.
pub(super) fn reason(own: &ProcessorId) -> Reason {
    Reason::new(REPLACED, format!("{own} handles this tenant's events instead"))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Limits, Settings, Tenants},
        *,
    };

    #[test]
    fn a_tenants_own_processor_replaces_the_shared_one_of_its_family() {
        let id = |text: &str| ProcessorId::parse(text).unwrap();
        let mut replacements = Replacements::default();
        assert!(replacements.replace([id("acme/orders"), id("globex/orders"), id("acme/carts")].into()));
        let of = |processor: &str| {
            let processor = id(processor);
            replacements.of(&processor).map(|(tenant, own)| format!("{tenant} {own}")).collect::<Vec<_>>()
        };
        assert_eq!(of("orders"), ["acme acme/orders", "globex globex/orders"]);
        assert_eq!(of("carts"), ["acme acme/carts"]);
        assert_eq!((of("prices"), of("acme/orders")), (Vec::new(), Vec::new()));
        assert_eq!(replacements.changes(), 1);
        let same = replacements.own.clone();
        assert!(!replacements.replace(same));
        assert_eq!(replacements.changes(), 1);
    }

    #[test]
    fn a_processor_that_a_tenants_settings_do_not_list_replaces_none() {
        let id = |text: &str| ProcessorId::parse(text).unwrap();
        let held = |processors: Option<&[&str]>, paused: bool| {
            let processors = processors.map(|ids| ids.iter().map(|id| id.to_string()).collect());
            let acme = Settings { processors, paused, ..Settings::default() };
            let tenants = Tenants::new(&[("acme".to_string(), acme)].into(), &Limits::default());
            tenants.replace([id("acme/orders")].into());
            let held = tenants.paused(&id("orders"));
            held.into_iter().map(|(tenant, reason)| format!("{tenant} {}", reason.class)).collect::<Vec<_>>()
        };
        assert_eq!(held(None, false), ["acme replaced"]);
        assert_eq!(held(Some(&["orders", "acme/orders"]), false), ["acme replaced"]);
        assert_eq!(held(Some(&["orders"]), false), Vec::<String>::new());
        assert_eq!(held(Some(&["acme/orders"]), false), ["acme not-allowed"]);
        assert_eq!(held(None, true), ["acme paused"]);
    }
}
