//! Loading of a plugin, from a component's bytes or from cached code. The result is a [`Plugin`],
//! which can handle batches.
//!
//! The component is linked with what it imports, and its `describe` is called once, in a store that
//! no tenant owns. The descriptor that it returns is checked before anything else uses it.

use std::sync::{Arc, PoisonError};

use wasmtime::component::Component;

use super::{
    LoadError, Plugin, Sandbox,
    bindings::{PluginPre, v0_1},
    compile::CompileError,
    descriptor, failure,
    guest::{Call, Guest, GuestIdentity, GuestState, block_on},
    log::CallLog,
    memory::PluginMemory,
};
use crate::model::{handler::Failure, ids::ProcessorId};

/// Loads a plugin: compiles a file's bytes and calls `describe`. Their outline has been checked,
/// and `digest` is their SHA-256.
pub(super) fn load(sandbox: &Sandbox, bytes: &[u8], digest: &[u8; 32]) -> Result<Plugin, LoadError> {
    compiled(sandbox, sandbox.compiler.component(bytes, digest, sandbox.effort)?, digest)
}

/// Loads a plugin from cached code, whose outline was checked before it was compiled.
pub(super) fn recall(sandbox: &Sandbox, digest: &str) -> Option<Plugin> {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digest.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    compiled(sandbox, sandbox.compiler.cached(&bytes)?, &bytes).ok().filter(|plugin| plugin.digest() == digest)
}

fn compiled(sandbox: &Sandbox, component: Component, digest: &[u8; 32]) -> Result<Plugin, LoadError> {
    let linked = sandbox.linker.instantiate_pre(&component).and_then(PluginPre::new);
    let pre = linked.map_err(|e| CompileError::Unfit(format!("{e:#}")))?;
    let described = describe(sandbox, &pre)?;
    let descriptor =
        descriptor::check(described, pre.kind(), sandbox.limits.collections).map_err(LoadError::Descriptor)?;
    // Its lines are logged under the id that it runs as.
    let id = ProcessorId::from(descriptor.id.clone());
    let id = sandbox.owner.as_ref().map_or_else(|| id.clone(), |owner| id.owned_by(owner));
    let identity = GuestIdentity::new(id.to_string(), descriptor.collections.clone(), sandbox.settings.clone());
    let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Plugin::new(sandbox.clone(), pre, Arc::new(identity), descriptor, digest))
}

/// Calls `describe` in a store of its own.
fn describe(sandbox: &Sandbox, pre: &PluginPre<GuestState>) -> Result<v0_1::Descriptor, LoadError> {
    let anonymous = Arc::new(GuestIdentity::unknown());
    let memory = PluginMemory::new(sandbox.limits.memory_bytes(), sandbox.memory.clone(), || false);
    // One at a time: the engine has room for one instance beyond those that can be lent.
    let _describing = sandbox.describing.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = loop {
        let mut guest = Guest::new(sandbox, anonymous.clone(), memory.clone(), None);
        // Its log lines count toward the volume of the tenant that owns the plugin.
        let owner = sandbox.owner.as_ref().map(|owner| sandbox.tenants.of(owner));
        let log = CallLog::new(owner, false, &sandbox.limits);
        let answer = block_on(guest.run(Call::describe(&sandbox.limits), log, async |guest| {
            let exports = pre.instantiate(&mut guest.store).await?;
            exports.describe(&mut guest.store).await
        }));
        drop(guest);
        match answer.map_err(|failed| failed.failure) {
            // Some components have more memories than the one instance that is reserved.
            Err(Failure::Retry(reason)) if reason.class == failure::NO_INSTANCE && sandbox.warm.evict(|_| true) => {}
            answer => break answer,
        }
    };
    answer.map_err(|failure| match failure {
        Failure::Retry(reason) if reason.class == failure::NO_INSTANCE => LoadError::NoInstance(reason.message),
        Failure::Block(reason) | Failure::Retry(reason) => LoadError::Describe(reason.to_string()),
        Failure::EndTerm(why) => LoadError::Describe(why),
    })
}
