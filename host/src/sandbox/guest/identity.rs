//! The identity of a guest: the name it is logged under, and the data that its calls are checked
//! against. All stores of a plugin share one.

use crate::model::{
    ids::{CollectionName, TenantId},
    settings::{PluginSettings, Values},
};

/// The identity of a guest.
pub(in crate::sandbox) struct GuestIdentity {
    name: String,
    collections: Vec<CollectionName>,
    settings: PluginSettings,
}

impl GuestIdentity {
    pub(in crate::sandbox) fn new(name: String, collections: Vec<CollectionName>, settings: PluginSettings) -> Self {
        GuestIdentity { name, collections, settings }
    }

    /// The identity of a plugin whose descriptor is not known yet.
    pub(in crate::sandbox) fn unknown() -> Self {
        Self::new("describe".into(), Vec::new(), PluginSettings::default())
    }

    /// The name that its lines are logged under.
    pub(in crate::sandbox) fn name(&self) -> &str {
        &self.name
    }

    /// A collection that its descriptor lists.
    pub(in crate::sandbox) fn collection(&self, name: &str) -> Option<&CollectionName> {
        self.collections.iter().find(|collection| collection.as_str() == name)
    }

    /// Its settings for calls of a tenant.
    pub(super) fn settings(&self, tenant: &TenantId) -> Values {
        self.settings.of(tenant)
    }
}
