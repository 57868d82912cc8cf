//! Which versions of the contract this host speaks. A released one is never changed; a new one is a file beside it, and the rest of the host
//! speaks [`crate::model`] only.

pub(super) mod v0_1;

use wasmtime::component::{HasSelf, Linker};

use super::instance::State;

/// Links every version's imports.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> anyhow::Result<()> {
    v0_1::ProjectorPlugin::add_to_linker::<_, HasSelf<_>>(linker, |state| state)
        .map_err(|e| anyhow::anyhow!("link the contract: {e:#}"))
}
