//! The versions of the contract that this host speaks. A released version never changes; a new one
//! is a file beside it. The rest of the host uses only [`crate::model`].

pub(super) mod v0_1;

use wasmtime::component::{HasSelf, Linker};

use super::instance::GuestState;

/// Links the imports of every version.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> anyhow::Result<()> {
    v0_1::ProjectorPlugin::add_to_linker::<_, HasSelf<_>>(linker, |state| state)
        .map_err(|e| anyhow::anyhow!("link the contract: {e:#}"))
}
