//! The settings of one plugin: strings by key, common to all tenants or for one tenant.
//!
//! Values may be secrets. They are never displayed, and a tenant's own values reach only instances
//! of that tenant.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::ids::TenantId;

/// Strings by key, in the order of the keys.
pub type Values = Arc<[(String, String)]>;

/// The settings of a plugin. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PluginSettings(Arc<ByTenant>);

#[derive(Default, PartialEq, Eq)]
struct ByTenant {
    all: Values,
    /// For each tenant that has its own values: those, and the common values of all other keys.
    tenants: BTreeMap<TenantId, Values>,
}

impl PluginSettings {
    /// Settings from common values, and from values of individual tenants, which override them key
    /// by key.
    pub fn new(all: BTreeMap<String, String>, tenants: BTreeMap<TenantId, BTreeMap<String, String>>) -> Self {
        let merged = |own: BTreeMap<String, String>| {
            let mut values = all.clone();
            values.extend(own);
            values.into_iter().collect()
        };
        let tenants = tenants.into_iter().map(|(tenant, own)| (tenant, merged(own))).collect();
        PluginSettings(Arc::new(ByTenant { all: all.into_iter().collect(), tenants }))
    }

    /// Whether any tenant has its own settings.
    pub fn have_tenants(&self) -> bool {
        !self.0.tenants.is_empty()
    }

    /// The values that the plugin can read for a tenant.
    pub fn of(&self, tenant: &TenantId) -> Values {
        self.0.tenants.get(tenant).unwrap_or(&self.0.all).clone()
    }
}

/// Common keys and tenants only, because values may be secrets.
impl fmt::Debug for PluginSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.all.iter().map(|(key, _)| key);
        f.debug_set().entries(keys).entries(self.0.tenants.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_tenants_own_values_override_the_common_ones_key_by_key() {
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        let own = [(tenant("acme"), values(&[("currency", "USD"), ("vat", "7")]))];
        let settings = PluginSettings::new(values(&[("currency", "EUR"), ("rate", "1.5")]), own.into());
        let of = |name: &str| settings.of(&tenant(name)).iter().cloned().collect::<BTreeMap<_, _>>();
        assert_eq!(of("acme"), values(&[("currency", "USD"), ("rate", "1.5"), ("vat", "7")]));
        assert_eq!(of("globex"), values(&[("currency", "EUR"), ("rate", "1.5")]));
        assert_eq!(format!("{settings:?}"), r#"{"currency", "rate", TenantId("acme")}"#);
    }
}
