//! A version of a processor's code that is ready to run.

use std::sync::Arc;

use super::manifest::Manifest;
use crate::{
    model::{
        handler::Handler,
        spec::{PartitionBy, ProcessorSpec},
    },
    processor::{
        code::CodeVersion, policy::FailurePolicy, pressure::Strategy, registration::Registration,
        settings::ProcessorSettings,
    },
};

/// A version of a processor's code that is ready to run.
pub struct RunnableVersion {
    /// The plugin's spec with its manifest applied.
    pub spec: ProcessorSpec,
    /// The plugin's name, or `native`; for people.
    pub plugin: String,
    /// SHA-256 of its file, or `native`.
    pub digest: String,
    /// The code.
    pub handler: Arc<dyn Handler>,
    /// The plugin's manifest; the default for native code.
    pub manifest: Manifest,
    /// The contract and signature of its file.
    pub provenance: Provenance,
}

/// The contract and signature of a plugin's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The version of its contract; empty if unknown.
    pub contract: String,
    /// The public key that verifies it; empty if no signature was required.
    pub signed_by: String,
    /// The signature in hexadecimal.
    pub signature: String,
}

impl RunnableVersion {
    /// A version whose code is part of this process.
    pub fn native(spec: ProcessorSpec, handler: Arc<dyn Handler>) -> Self {
        let native = || "native".to_string();
        let (manifest, provenance) = (Manifest::default(), Provenance::default());
        RunnableVersion { spec, plugin: native(), digest: native(), handler, manifest, provenance }
    }

    pub(super) fn registration(&self) -> Registration<'_> {
        let RunnableVersion { spec, plugin, digest, manifest, .. } = self;
        Registration { spec, plugin, digest, adopts: manifest.adopts() }
    }

    /// The version of the code, under the operator's settings for the processor.
    pub(super) fn version(&self, operator: &ProcessorSettings) -> CodeVersion {
        let policy = FailurePolicy::new(operator.failures.clone(), self.manifest.failures.clone());
        // Where lanes are streams, parking one would be the same as stopping its lane. Where they
        // are properties, one stream has events in several lanes. And a stream cannot both wait and
        // be shed.
        let may_park =
            self.spec.descriptor.partition_by == PartitionBy::Tenant && operator.back_pressure != Strategy::Shed;
        let policy = if may_park { policy } else { policy.without_parking() };
        CodeVersion::new(&*self.digest, self.handler.clone(), self.spec.max_batch_size).with_policy(policy)
    }
}
