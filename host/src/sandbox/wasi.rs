//! WASI 0.2, without HTTP, for guests whose language brings a runtime. All of it is linked, and
//! none of it reaches anything outside the sandbox.
//!
//! The runtimes of JavaScript and Python import clocks, random numbers, files and sockets whether
//! or not a plugin uses them. So a component that imports these is accepted. But the result of a
//! call may depend on events alone. So clocks stand still and random numbers are constant. A wait
//! ends at once, since a clock that stands still would never reach its end. There is no folder and
//! no network; opening one is denied. What a guest prints becomes log lines.
//!
//! Interfaces are linked under the very names that a component imports, so every minor version of
//! 0.2 works. The handles of a guest are counted, because the engine keeps a record of each.

mod streams;

use std::sync::Arc;

use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{
        Component, ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceType, Val,
        types::{ComponentFunc, ComponentItem, Type},
    },
};

use super::{failure, guest::GuestState, log::Level};

/// The packages of WASI that plugins may import.
const PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
/// The time of the monotonic clock, nanoseconds. Not zero: some runtimes subtract from it at their
/// start.
const MONOTONIC_NOW: u64 = 24 * 3_600 * 1_000_000_000;
/// Random bytes that one call may ask for: far more than any seed.
const RANDOM_BYTES: u64 = 1 << 20;
/// Handles that one instance may hold. A runtime holds about ten; a program that never releases one
/// would hold any number.
const HANDLES: u32 = 10_000;

/// The store of the guest that calls.
type Caller<'a> = StoreContextMut<'a, GuestState>;

/// A wait, which is always over.
pub(super) struct Pollable;
/// A file, socket or terminal: resources that a guest can name and never gets.
struct Unavailable;

/// Whether an import, named `wasi:PACKAGE/INTERFACE@0.2.MINOR`, is part of WASI and offered.
pub(super) fn offers(import: &str) -> bool {
    interface(import).is_some()
}

fn interface(import: &str) -> Option<&str> {
    let (interface, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    let minor = version.strip_prefix("0.2.")?;
    let known = PACKAGES.contains(&interface.split_once('/')?.0);
    (known && !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit())).then_some(interface)
}

/// Links the parts of WASI that a component imports.
pub(super) fn link(linker: &mut Linker<GuestState>, component: &Component) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        let (Some(interface), ComponentItem::ComponentInstance(items)) = (interface(name), import.ty) else { continue };
        let mut instance = linker.instance(name)?;
        for (item, export) in items.exports(&engine) {
            match export.ty {
                ComponentItem::ComponentFunc(_) => function(&mut instance, interface, item)?,
                ComponentItem::Resource(_) => instance.resource(item, resource(item), |mut store, _| {
                    store.data_mut().wasi_handles -= 1;
                    Ok(())
                })?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn resource(name: &str) -> ResourceType {
    match name {
        "pollable" => ResourceType::host::<Pollable>(),
        "error" => ResourceType::host::<streams::StreamFailure>(),
        "input-stream" => ResourceType::host::<streams::EmptyInput>(),
        "output-stream" => ResourceType::host::<streams::LogOutput>(),
        _ => ResourceType::host::<Unavailable>(),
    }
}

fn function(linker: &mut LinkerInstance<'_, GuestState>, interface: &str, name: &str) -> wasmtime::Result<()> {
    type StringPairs = Vec<(String, String)>;
    match (interface, name) {
        ("cli/environment", "get-environment") => linker.func_wrap(name, |_, ()| Ok((StringPairs::new(),))),
        ("cli/environment", "get-arguments") => linker.func_wrap(name, |_, ()| Ok((Vec::<String>::new(),))),
        ("cli/environment", "initial-cwd") => linker.func_wrap(name, |_, ()| Ok((None::<String>,))),
        ("cli/exit", _) => linker.func_new(name, |mut store, _, _, _| Err(store.data_mut().exited())),
        ("cli/terminal-stdin" | "cli/terminal-stdout" | "cli/terminal-stderr", _) => {
            linker.func_wrap(name, |_, ()| Ok((None::<Resource<Unavailable>>,)))
        }
        ("clocks/monotonic-clock", "now") => linker.func_wrap(name, |_, ()| Ok((MONOTONIC_NOW,))),
        ("clocks/monotonic-clock", "resolution") => linker.func_wrap(name, |_, ()| Ok((1_u64,))),
        ("clocks/monotonic-clock", "subscribe-duration" | "subscribe-instant") => {
            linker.func_wrap(name, |mut store: Caller<'_>, (_,): (u64,)| Ok((store.data_mut().pollable()?,)))
        }
        ("clocks/wall-clock", "now") => linker.func_wrap(name, |_, ()| Ok((Datetime { seconds: 0, nanoseconds: 0 },))),
        ("clocks/wall-clock", "resolution") => {
            linker.func_wrap(name, |_, ()| Ok((Datetime { seconds: 0, nanoseconds: 1 },)))
        }
        ("io/poll", "[method]pollable.ready") => linker.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok((true,))),
        ("io/poll", "[method]pollable.block") => linker.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok(())),
        ("io/poll", "poll") => {
            linker.func_wrap(name, |mut store: Caller<'_>, (all,): (Vec<Resource<Pollable>>,)| match all.len() as u32 {
                0 => Err(store.data_mut().refuse("refused-call", "polled an empty list, which would never end".into())),
                count => Ok(((0..count).collect::<Vec<u32>>(),)),
            })
        }
        ("random/random", "get-random-bytes") | ("random/insecure", "get-insecure-random-bytes") => {
            linker.func_wrap(name, |mut store: Caller<'_>, (count,): (u64,)| match count {
                0..=RANDOM_BYTES => Ok(((0..count).map(random_byte).collect::<Vec<u8>>(),)),
                _ => {
                    let message = format!("asked for {count} random bytes in one call; {RANDOM_BYTES} are allowed");
                    Err(store.data_mut().refuse("refused-call", message))
                }
            })
        }
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => {
            linker.func_wrap(name, |_, ()| Ok((random_number(0),)))
        }
        ("random/insecure-seed", "insecure-seed") => {
            linker.func_wrap(name, |_, ()| Ok(((random_number(0), random_number(1)),)))
        }
        ("filesystem/preopens", "get-directories") => {
            linker.func_wrap(name, |_, ()| Ok((Vec::<(Resource<Unavailable>, String)>::new(),)))
        }
        ("sockets/instance-network", "instance-network") => linker.func_wrap(name, |mut store: Caller<'_>, ()| {
            store.data_mut().hold()?;
            Ok((Resource::<Unavailable>::new_own(0),))
        }),
        _ if streams::has(interface, name) => streams::function(linker, interface, name),
        _ => {
            let full_name: Arc<str> = format!("wasi:{interface}#{name}").into();
            linker.func_new_async(name, move |store, ty, given, answer| {
                let name = full_name.clone();
                Box::new(async move { deny(store, &name, &ty, given, answer).await })
            })
        }
    }
}

/// Returns the function's error for a denied access. Ends the guest if the function has none.
async fn deny(
    mut store: StoreContextMut<'_, GuestState>,
    name: &str,
    ty: &ComponentFunc,
    given: &[Val],
    answer: &mut [Val],
) -> wasmtime::Result<()> {
    for value in given {
        // A borrowed handle must be returned before the call ends.
        if let Val::Resource(handle) = value {
            handle.resource_drop_async(store.as_context_mut()).await?;
        }
    }
    let denial = |ty: &Type| match ty {
        Type::Result(result) => match result.err() {
            Some(Type::Enum(errors)) => {
                errors.names().find(|error| matches!(*error, "access" | "access-denied")).map(str::to_string)
            }
            _ => None,
        },
        _ => None,
    };
    match (ty.results().next().as_ref().and_then(denial), answer) {
        (Some(error), [answer]) => {
            *answer = Val::Result(Err(Some(Box::new(Val::Enum(error)))));
            Ok(())
        }
        _ => Err(store
            .data_mut()
            .refuse("refused-call", format!("called `{name}`; guests have no files and no network"))),
    }
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// A number of the constant sequence that every call sees: SplitMix64 from a fixed seed. With a
/// sequence that continued over calls, results would depend on how events are batched.
fn random_number(index: u64) -> u64 {
    let mut z = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random_byte(index: u64) -> u8 {
    random_number(index / 8).to_le_bytes()[(index % 8) as usize]
}

impl GuestState {
    /// Counts one more handle.
    fn hold(&mut self) -> wasmtime::Result<()> {
        if self.wasi_handles == HANDLES {
            let message = format!("held {HANDLES} WASI handles, the most for one instance; release handles after use");
            return Err(self.refuse("handle-limit", message));
        }
        self.wasi_handles += 1;
        Ok(())
    }

    fn pollable(&mut self) -> wasmtime::Result<Resource<Pollable>> {
        self.hold()?;
        Ok(Resource::new_own(0))
    }

    /// The error of a guest that ends its own program. Its last words say why.
    fn exited(&mut self) -> wasmtime::Error {
        self.call.log.end_lines(self.identity.name());
        let last_words = self.call.log.last_words();
        let message = failure::trap_message(last_words.as_deref(), "the guest exited: wasi:cli/exit");
        self.refuse("trap", message)
    }

    /// Logs what a guest prints. An unfinished line is kept until it ends.
    fn print(&mut self, error: bool, bytes: &[u8]) {
        let level = if error { Level::Warn } else { Level::Info };
        let (identity, call) = (self.identity.clone(), &mut self.call);
        call.log.print(identity.name(), level, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_minor_version_of_the_listed_packages_is_offered_and_nothing_else() {
        for good in ["wasi:cli/environment@0.2.0", "wasi:io/poll@0.2.12", "wasi:sockets/tcp@0.2.3"] {
            assert!(offers(good), "{good}");
        }
        for bad in [
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:io/poll@0.3.0",
            "wasi:io/poll@0.2.0-rc",
            "wasi:io/poll@0.2.",
            "wasi:io/poll",
            "wasi:io@0.2.0",
            "acme:io/poll@0.2.0",
        ] {
            assert!(!offers(bad), "{bad}");
        }
    }

    #[test]
    fn random_numbers_are_constant_and_distinct() {
        let bytes: Vec<u8> = (0..16).map(random_byte).collect();
        assert_eq!(bytes[..8], random_number(0).to_le_bytes());
        assert_eq!(bytes[8..], random_number(1).to_le_bytes());
        assert_ne!(random_number(0), random_number(1));
    }
}
