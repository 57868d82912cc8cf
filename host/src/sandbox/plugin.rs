//! A loaded plugin: its compiled code, its descriptor, and the handling of batches.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use wasmtime::component::Component;

use super::{
    LoadError, Sandbox, answer,
    bindings::v0_1::{self, Batch as WitBatch, Event as WitEvent, ProjectorPluginPre},
    compile::CompileError,
    failure,
    instance::{Call, Guest, GuestState, block_on},
    memory::{PluginMemory, TenantMemory},
    tenants::TenantAccount,
    warm::{AllStoresLent, StoreOwner},
    wasi,
};
use crate::model::{
    effects::Effects,
    event::Batch,
    handler::{BoxFuture, CallPermit, Documents, Failure, Handler, LogRoom},
    ids::{CollectionName, FamilyId, ProcessorId, TenantId},
    settings::{PluginSettings, Values},
    spec::{Descriptor, PartitionBy, Start},
};

/// A plugin that can handle batches.
pub struct Plugin {
    sandbox: Sandbox,
    pre: ProjectorPluginPre<GuestState>,
    identity: Arc<GuestIdentity>,
    memory: Arc<PluginMemory>,
    /// Identifies its warm stores.
    number: u64,
    descriptor: Descriptor,
    digest: String,
}

/// The identity of a guest: the name it is logged under, and the data that its calls are checked
/// against.
pub(super) struct GuestIdentity {
    name: String,
    collections: Vec<CollectionName>,
    settings: PluginSettings,
}

impl GuestIdentity {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn collections(&self) -> &[CollectionName] {
        &self.collections
    }

    /// Its settings for calls of a tenant.
    pub(super) fn settings(&self, tenant: &TenantId) -> Values {
        self.settings.of(tenant)
    }
}

impl Plugin {
    fn new(
        sandbox: Sandbox,
        pre: ProjectorPluginPre<GuestState>,
        identity: Arc<GuestIdentity>,
        descriptor: Descriptor,
        digest: String,
    ) -> Self {
        let number = sandbox.loaded.fetch_add(1, Relaxed);
        let warm = Arc::downgrade(&sandbox.warm);
        let evict_idle = move || warm.upgrade().is_some_and(|warm| warm.evict(|owner| owner.plugin == number));
        let memory = PluginMemory::new(sandbox.limits.plugin_memory_bytes(), sandbox.memory.clone(), evict_idle);
        Plugin { sandbox, pre, identity, memory, number, descriptor, digest }
    }

    /// Its descriptor, checked.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// SHA-256 of its file, lower-case hexadecimal: the plugin's version.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Linear memory of its largest instance so far, bytes.
    pub fn largest_instance_bytes(&self) -> usize {
        self.memory.largest()
    }

    fn owner(&self, tenant: &TenantId) -> StoreOwner {
        StoreOwner { plugin: self.number, tenant: tenant.clone() }
    }

    async fn project(self: Arc<Self>, batch: Arc<Batch>, documents: Arc<dyn Documents>) -> Result<Effects, Failure> {
        let watch = self.sandbox.refusals.watch(batch.lane.tenant.clone());
        let result = self.lend_and_call(&batch, documents).await;
        watch.end(&result);
        result
    }

    /// Runs one call in a store of the batch's tenant, and keeps the store if the call succeeds. A
    /// single event that fails in a warm store gets a second call in a fresh one. A guest that
    /// leaks memory over calls, or has corrupted its state, must not block the lane at that event.
    /// A larger batch needs no second call, since it is halved and retried anyway.
    async fn lend_and_call(&self, batch: &Batch, documents: Arc<dyn Documents>) -> Result<Effects, Failure> {
        let (warm, tenant) = (&self.sandbox.warm, self.sandbox.tenants.of(&batch.lane.tenant));
        let mut loan = warm.lend(self.owner(&batch.lane.tenant)).map_err(|AllStoresLent| failure::no_instance())?;
        let effects = loop {
            let is_last_chance = !loan.is_warm() || batch.events.len() > 1;
            let guest = loan.get_or_make(|| self.guest(tenant.clone()));
            let answer = self.call(guest, batch, tenant.clone(), documents.clone()).await.and_then(|answer| {
                answer::check(answer, batch.events.len(), &self.descriptor, &self.sandbox.limits)
                    .map_err(Failure::Block)
            });
            match answer {
                // The pool had room for a store but not for all of its parts; some components
                // have many.
                Err(Failure::Retry(reason)) if reason.class == failure::NO_INSTANCE && warm.evict(|_| true) => {
                    loan.discard()
                }
                Err(Failure::Block(_)) if !is_last_chance => loan.discard(),
                answer => break answer,
            }
        }?;
        // A guest that halted has stopped within a batch, so its memory may reflect events that it
        // will see again.
        if effects.halted.is_none() {
            loan.keep();
        }
        Ok(effects)
    }

    /// A store for a tenant. Idle stores of the tenant are evicted when it reaches its bound on
    /// memory.
    fn guest(&self, tenant: Arc<TenantAccount>) -> Guest {
        let (warm, id) = (Arc::downgrade(&self.sandbox.warm), tenant.id().clone());
        let evict_idle = Box::new(move || warm.upgrade().is_some_and(|warm| warm.evict(|owner| owner.tenant == id)));
        Guest::new(
            &self.sandbox,
            self.identity.clone(),
            self.memory.clone(),
            Some(TenantMemory { account: tenant, evict_idle }),
        )
    }

    async fn call(
        &self,
        guest: &mut Guest,
        batch: &Batch,
        tenant: Arc<TenantAccount>,
        documents: Arc<dyn Documents>,
    ) -> Result<v0_1::Projection, Failure> {
        let call = Call::of(tenant, documents, batch.replaying, &self.sandbox.limits);
        let body = async |guest: &mut Guest| {
            if guest.exports.is_none() {
                guest.exports = Some(self.pre.instantiate_async(&mut guest.store).await?);
            }
            let Some(exports) = &guest.exports else { return Err(wasmtime::Error::msg("no instance")) };
            let events: Vec<WitEvent<'_>> = batch
                .events
                .iter()
                .map(|event| WitEvent {
                    id: &event.id,
                    event_type: &event.event_type,
                    stream_id: &event.stream,
                    stream_version: event.version as u64,
                    position: event.position as u64,
                    recorded_at: event.recorded_at,
                    data: &event.data,
                    metadata: &event.metadata,
                })
                .collect();
            let batch = WitBatch {
                tenant: batch.lane.tenant.as_str(),
                partition_key: &batch.lane.key,
                attempt: batch.attempt,
                replaying: batch.replaying,
                events: &events,
            };
            exports.sandmill_processor_projector().call_project(&mut guest.store, batch).await
        };
        guest.run(call, body).await
    }
}

impl Handler for Plugin {
    fn handle(
        self: Arc<Self>,
        batch: Arc<Batch>,
        documents: Arc<dyn Documents>,
    ) -> BoxFuture<'static, Result<Effects, Failure>> {
        Box::pin(self.project(batch, documents))
    }

    fn wall_time(&self) -> Duration {
        self.sandbox.limits.wall()
    }

    fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler> {
        let (sandbox, pre, identity) = (self.sandbox.clone(), self.pre.clone(), self.identity.clone());
        Arc::new(Plugin::new(sandbox, pre, identity, self.descriptor.clone(), self.digest.clone()))
    }

    fn permit<'a>(&'a self, tenant: &TenantId) -> BoxFuture<'a, CallPermit> {
        let (tenant, instances) = (self.sandbox.tenants.of(tenant), self.sandbox.calls.clone());
        Box::pin(async move { CallPermit::new(tenant.permit(instances).await) })
    }

    fn log_room(&self, tenant: &TenantId, bytes: usize) -> LogRoom {
        self.sandbox.tenants.of(tenant).log_room(bytes)
    }

    fn forget(&self, tenant: &TenantId) {
        self.sandbox.warm.forget(&self.owner(tenant));
    }

    fn forget_all(&self) {
        self.sandbox.warm.forget_plugin(self.number);
    }
}

/// Drops its idle stores, which no call can use any more.
impl Drop for Plugin {
    fn drop(&mut self) {
        self.forget_all();
    }
}

/// Loads a plugin: compiles a file's bytes and calls `describe`. Their outline has been checked,
/// and `digest` is their SHA-256.
pub(super) fn load(sandbox: &Sandbox, bytes: &[u8], digest: &[u8; 32]) -> Result<Plugin, LoadError> {
    describe(sandbox, sandbox.compiler.component(bytes, digest, sandbox.effort)?, digest)
}

/// Loads a plugin from cached code, whose outline was checked before it was compiled.
pub(super) fn recall(sandbox: &Sandbox, digest: &str) -> Option<Plugin> {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digest.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    describe(sandbox, sandbox.compiler.cached(&bytes)?, &bytes).ok().filter(|plugin| plugin.digest == digest)
}

fn describe(sandbox: &Sandbox, component: Component, digest: &[u8; 32]) -> Result<Plugin, LoadError> {
    let unfit = |e: wasmtime::Error| CompileError::Unfit(format!("{e:#}"));
    let mut linker = (*sandbox.linker).clone();
    wasi::link(&mut linker, &component).map_err(unfit)?;
    let pre = linker.instantiate_pre(&component).map_err(unfit)?;
    let pre = ProjectorPluginPre::new(pre).map_err(unfit)?;

    let settings = PluginSettings::default();
    let anonymous = Arc::new(GuestIdentity { name: "describe".into(), collections: Vec::new(), settings });
    let memory = PluginMemory::new(sandbox.limits.memory_bytes(), sandbox.memory.clone(), || false);
    // One at a time: the engine has room for one instance beyond those that can be lent.
    let describing = sandbox.describing.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = loop {
        let mut guest = Guest::new(sandbox, anonymous.clone(), memory.clone(), None);
        // Its log lines count toward the volume of the tenant that owns the plugin.
        let owner = sandbox.owner.as_ref().map(|owner| sandbox.tenants.of(owner));
        let answer = block_on(guest.run(Call::describe(owner, &sandbox.limits), async |guest| {
            let exports = pre.instantiate_async(&mut guest.store).await?;
            exports.sandmill_processor_description().call_describe(&mut guest.store).await
        }));
        drop(guest);
        match answer {
            // Some components have more memories than the one instance that is reserved.
            Err(Failure::Retry(reason)) if reason.class == failure::NO_INSTANCE && sandbox.warm.evict(|_| true) => {}
            answer => break answer,
        }
    };
    drop(describing);
    let descriptor = match answer {
        Ok(descriptor) => check_descriptor(descriptor, sandbox.limits.collections).map_err(LoadError::Descriptor)?,
        Err(Failure::Retry(reason)) if reason.class == failure::NO_INSTANCE => {
            return Err(LoadError::NoInstance(reason.message));
        }
        Err(Failure::Block(reason) | Failure::Retry(reason)) => return Err(LoadError::Describe(reason.to_string())),
        Err(Failure::EndTerm(why)) => return Err(LoadError::Describe(why)),
    };
    // Its lines are logged under the id that it runs as.
    let id = ProcessorId::from(descriptor.id.clone());
    let id = sandbox.owner.as_ref().map_or_else(|| id.clone(), |owner| id.owned_by(owner));
    let (name, settings) = (id.to_string(), sandbox.settings.clone());
    let identity = Arc::new(GuestIdentity { name, collections: descriptor.collections.clone(), settings });
    let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Plugin::new(sandbox.clone(), pre, identity, descriptor, digest))
}

/// Event types that a descriptor may list: far more than a plugin has handlers for. Each is
/// compared with every event, stored with the processor and shown.
const EVENT_TYPES: usize = 1_000;
/// Length of a pointer to a property, bytes.
const POINTER_BYTES: usize = 512;

/// Accepts a descriptor that follows the contract's rules and this host's bounds.
fn check_descriptor(given: v0_1::Descriptor, max_collections: usize) -> Result<Descriptor, String> {
    let wrong = |problem: String| format!("broke the contract: {problem}");
    // Bounds first, before the host copies the lists or quotes an entry.
    if given.collections.len() > max_collections {
        let listed = given.collections.len();
        return Err(format!("lists {listed} collections; limits.collections allows {max_collections}"));
    }
    if let Some(types) = given.event_types.as_ref().filter(|types| types.len() > EVENT_TYPES) {
        let listed = types.len();
        return Err(format!(
            "lists {listed} event types; {EVENT_TYPES} are allowed; omit the list to handle every type"
        ));
    }
    let id = FamilyId::parse(&given.id).map_err(|e| wrong(e.to_string()))?;
    let mut collections = Vec::new();
    for name in &given.collections {
        let name = CollectionName::parse(name).map_err(|e| wrong(e.to_string()))?;
        if collections.contains(&name) {
            return Err(wrong(format!("collection `{name}` is listed twice")));
        }
        collections.push(name);
    }
    if let Some(types) = &given.event_types {
        if types.is_empty() {
            return Err(wrong("an empty list of event types handles nothing; omit it to handle every type".into()));
        }
        if let Some(bad) = types.iter().find(|t| t.is_empty() || t.len() > 200 || t.contains('\0')) {
            return Err(wrong(format!(
                "`{}` is not an event type; a type has 1 to 200 bytes without U+0000",
                quoted(bad)
            )));
        }
    }
    if given.max_batch_size == Some(0) {
        return Err(wrong("max-batch-size is 0; omit it to let the host choose".into()));
    }
    let partition_by = match given.partition_by {
        v0_1::PartitionBy::Tenant => PartitionBy::Tenant,
        v0_1::PartitionBy::EventStream => PartitionBy::EventStream,
        v0_1::PartitionBy::DataProperty(pointer) if pointer.len() > POINTER_BYTES => {
            let bytes = pointer.len();
            return Err(wrong(format!(
                "partitions by data-property with a pointer of {bytes} bytes; up to {POINTER_BYTES} are allowed"
            )));
        }
        v0_1::PartitionBy::DataProperty(pointer) if !is_json_pointer(&pointer) => {
            return Err(wrong(format!(
                "partitions by data-property `{}`, which is not a JSON pointer (RFC 6901); write `/customer` or \
                 `/customer/id`, with `~0` for `~` and `~1` for `/` in a name",
                quoted(&pointer)
            )));
        }
        v0_1::PartitionBy::DataProperty(pointer) => PartitionBy::DataProperty(pointer),
    };
    let start = match given.start {
        v0_1::StartPosition::Beginning => Start::Beginning,
        v0_1::StartPosition::Now => Start::Now,
    };
    Ok(Descriptor {
        id,
        version: given.version.chars().filter(|c| !c.is_control()).take(100).collect(),
        event_types: given.event_types,
        collections,
        partition_by,
        start,
        read_model_version: given.read_model_version,
        max_batch_size: given.max_batch_size,
    })
}

/// The beginning of a guest's text, for a message.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Whether a text is a JSON pointer (RFC 6901): empty, or names that each follow a `/`, with `~`
/// only as `~0` or `~1`.
fn is_json_pointer(text: &str) -> bool {
    let escaped = |rest: &str| rest.starts_with(['0', '1']);
    (text.is_empty() || text.starts_with('/')) && text.split('~').skip(1).all(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_pointers_follow_their_rfc() {
        for good in ["", "/", "/a", "/a/b", "/a~0b/~1", "/ä b/0"] {
            assert!(is_json_pointer(good), "{good}");
        }
        for bad in ["a", "a/b", "~0", "/a~", "/a~2", "/~~0", "#/a"] {
            assert!(!is_json_pointer(bad), "{bad}");
        }
    }

    fn by_property(pointer: &str) -> v0_1::Descriptor {
        v0_1::Descriptor {
            id: "p".into(),
            version: String::new(),
            event_types: None,
            collections: Vec::new(),
            partition_by: v0_1::PartitionBy::DataProperty(pointer.into()),
            start: v0_1::StartPosition::Beginning,
            read_model_version: 1,
            max_batch_size: None,
        }
    }

    #[test]
    fn a_partition_property_must_be_a_json_pointer() {
        let accepted = check_descriptor(by_property("/customer"), 32).unwrap();
        assert_eq!(accepted.partition_by, PartitionBy::DataProperty("/customer".into()));
        let refused = check_descriptor(by_property("customer"), 32).unwrap_err();
        assert!(refused.contains("`customer`, which is not a JSON pointer (RFC 6901); write `/customer`"), "{refused}");
    }

    #[test]
    fn lists_and_texts_of_a_descriptor_are_bounded() {
        let names = |count: usize| (0..count).map(|number| format!("c{number}")).collect::<Vec<_>>();
        let collections = |count| v0_1::Descriptor { collections: names(count), ..by_property("/a") };
        assert_eq!(check_descriptor(collections(32), 32).unwrap().collections.len(), 32);
        let refused = |given| check_descriptor(given, 32).unwrap_err();
        assert_eq!(refused(collections(33)), "lists 33 collections; limits.collections allows 32");
        let types = |types| v0_1::Descriptor { event_types: Some(types), ..by_property("/a") };
        assert_eq!(
            check_descriptor(types(names(1_000)), 32).unwrap().event_types.map(|types| types.len()),
            Some(1_000)
        );
        let many = "lists 1001 event types; 1000 are allowed; omit the list to handle every type";
        assert_eq!(refused(types(names(1_001))), many);
        let long = refused(types(vec!["x".repeat(1 << 20)]));
        assert!(long.ends_with("xxx…` is not an event type; a type has 1 to 200 bytes without U+0000"), "{long}");
        assert!(long.len() < 200, "{long}");
        assert!(check_descriptor(by_property(&format!("/{}", "x".repeat(511))), 32).is_ok());
        let pointer = refused(by_property(&format!("/{}", "x".repeat(512))));
        assert!(pointer.ends_with("with a pointer of 513 bytes; up to 512 are allowed"), "{pointer}");
        assert!(refused(by_property(&"x".repeat(512))).len() < 400);
        let id = v0_1::Descriptor { id: "acme/p".into(), ..by_property("/a") };
        assert!(refused(id).contains("`acme/p` is not a valid processor id: 1 to 63 lowercase ASCII letters"));
    }
}
