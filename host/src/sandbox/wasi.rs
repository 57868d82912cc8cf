//! WASI 0.2 for guests whose language brings a runtime: all of it is linked, and none of it reaches the outside.
//!
//! JavaScript and Python import clocks, random numbers, files and sockets whether a plugin uses them or not, so a component that does is not refused. But an
//! outcome may depend on events alone. So clocks stand still and random numbers are constant; a wait is over at once, because time that stands would never
//! bring its end; there is no folder and no network to open, and what is asked for nevertheless is denied. What a guest prints are log lines. Interfaces are linked
//! under the very names that a component imports, so every minor of 0.2 will do. What a guest holds of all this is counted, as the engine remembers each handle.

mod streams;

use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{
        Component, ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceAny, ResourceType, Val,
        types::{ComponentFunc, ComponentItem, Type},
    },
};

use super::{instance::State, log::Level};
use crate::model::handler::{Failure, Reason};

/// The packages of WASI that plugins may import, whatever they want of them.
const PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
/// What the monotonic clock shows. Not zero: some runtimes subtract from it at their start.
const STANDING: u64 = 24 * 3_600 * 1_000_000_000;
/// Random numbers of one call, bytes: far more than any seed.
const RANDOM_BYTES: u64 = 1 << 20;
/// Handles that one instance may hold. A runtime holds some ten; a program that gives none back holds any number.
const HANDLES: u32 = 10_000;

/// Something that is ready: the only kind of wait there is.
pub(super) struct Pollable;
/// Files, sockets, terminals: what a guest can name and never gets.
struct Nothing;

/// What an instance holds of WASI, over all its calls.
#[derive(Default)]
pub(super) struct Ambient {
    handles: u32,
}

/// Whether an import is WASI's and offered. Told from its name, `wasi:PACKAGE/INTERFACE@0.2.MINOR`.
pub(super) fn offers(import: &str) -> bool {
    interface(import).is_some()
}

fn interface(import: &str) -> Option<&str> {
    let (interface, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    let minor = version.strip_prefix("0.2.")?;
    let known = PACKAGES.contains(&interface.split_once('/')?.0);
    (known && !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit())).then_some(interface)
}

/// Links what a component imports of WASI, if it does.
pub(super) fn link(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        let (Some(interface), ComponentItem::ComponentInstance(items)) = (interface(name), import.ty) else { continue };
        let mut instance = linker.instance(name)?;
        for (item, export) in items.exports(&engine) {
            match export.ty {
                ComponentItem::ComponentFunc(_) => function(&mut instance, interface, item)?,
                ComponentItem::Resource(_) => instance.resource(item, resource(item), |mut store, _| {
                    store.data_mut().ambient.handles -= 1;
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
        "error" => ResourceType::host::<streams::Broken>(),
        "input-stream" => ResourceType::host::<streams::Input>(),
        "output-stream" => ResourceType::host::<streams::Output>(),
        _ => ResourceType::host::<Nothing>(),
    }
}

fn function(linker: &mut LinkerInstance<'_, State>, interface: &str, name: &str) -> wasmtime::Result<()> {
    type Store<'a> = StoreContextMut<'a, State>;
    type Texts = Vec<(String, String)>;
    match (interface, name) {
        ("cli/environment", "get-environment") => linker.func_wrap(name, |_, ()| Ok((Texts::new(),))),
        ("cli/environment", "get-arguments") => linker.func_wrap(name, |_, ()| Ok((Vec::<String>::new(),))),
        ("cli/environment", "initial-cwd") => linker.func_wrap(name, |_, ()| Ok((None::<String>,))),
        ("cli/exit", _) => linker.func_new(name, |mut store, _, _, _| Err(store.data_mut().exited())),
        ("cli/terminal-stdin" | "cli/terminal-stdout" | "cli/terminal-stderr", _) => {
            linker.func_wrap(name, |_, ()| Ok((None::<Resource<Nothing>>,)))
        }
        ("clocks/monotonic-clock", "now") => linker.func_wrap(name, |_, ()| Ok((STANDING,))),
        ("clocks/monotonic-clock", "resolution") => linker.func_wrap(name, |_, ()| Ok((1_u64,))),
        ("clocks/monotonic-clock", "subscribe-duration" | "subscribe-instant") => {
            linker.func_wrap(name, |mut store: Store<'_>, (_,): (u64,)| Ok((store.data_mut().pollable()?,)))
        }
        ("clocks/wall-clock", "now") => linker.func_wrap(name, |_, ()| Ok((Datetime { seconds: 0, nanoseconds: 0 },))),
        ("clocks/wall-clock", "resolution") => {
            linker.func_wrap(name, |_, ()| Ok((Datetime { seconds: 0, nanoseconds: 1 },)))
        }
        ("io/poll", "[method]pollable.ready") => linker.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok((true,))),
        ("io/poll", "[method]pollable.block") => linker.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok(())),
        ("io/poll", "poll") => {
            linker.func_wrap(name, |mut store: Store<'_>, (all,): (Vec<Resource<Pollable>>,)| match all.len() as u32 {
                0 => Err(store.data_mut().refuse("refused-call", "polled nothing, which would never end".into())),
                count => Ok(((0..count).collect::<Vec<u32>>(),)),
            })
        }
        ("random/random", "get-random-bytes") | ("random/insecure", "get-insecure-random-bytes") => {
            linker.func_wrap(name, |mut store: Store<'_>, (count,): (u64,)| match count {
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
            linker.func_wrap(name, |_, ()| Ok((Vec::<(Resource<Nothing>, String)>::new(),)))
        }
        ("sockets/instance-network", "instance-network") => linker.func_wrap(name, |mut store: Store<'_>, ()| {
            store.data_mut().hold()?;
            Ok((Resource::<Nothing>::new_own(0),))
        }),
        _ if streams::has(interface, name) => streams::function(linker, interface, name),
        _ => {
            let whole = format!("wasi:{interface}#{name}");
            linker.func_new(name, move |store, ty, given, answer| deny(store, &whole, &ty, given, answer))
        }
    }
}

/// Answers that it is not permitted, where the function has a word for that, and ends the guest where it has none.
fn deny(
    mut store: StoreContextMut<'_, State>,
    name: &str,
    ty: &ComponentFunc,
    given: &[Val],
    answer: &mut [Val],
) -> wasmtime::Result<()> {
    for value in given {
        // A handle that was lent must be given back before the call ends.
        if let Val::Resource(handle) = value {
            ResourceAny::resource_drop(*handle, store.as_context_mut())?;
        }
    }
    let words = |ty: &Type| match ty {
        Type::Result(result) => match result.err() {
            Some(Type::Enum(words)) => {
                words.names().find(|word| matches!(*word, "access" | "access-denied")).map(str::to_string)
            }
            _ => None,
        },
        _ => None,
    };
    match (ty.results().next().as_ref().and_then(words), answer) {
        (Some(word), [answer]) => {
            *answer = Val::Result(Err(Some(Box::new(Val::Enum(word)))));
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

/// The same for every call: SplitMix64 from a fixed seed. An outcome that hung on more would differ from one batching to the next.
fn random_number(index: u64) -> u64 {
    let mut z = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random_byte(index: u64) -> u8 {
    random_number(index / 8).to_le_bytes()[(index % 8) as usize]
}

impl State {
    /// Counts one more handle.
    fn hold(&mut self) -> wasmtime::Result<()> {
        if self.ambient.handles == HANDLES {
            let message =
                format!("held {HANDLES} handles of WASI, as many as one instance may; give back what is done with");
            return Err(self.refuse("handle-limit", message));
        }
        self.ambient.handles += 1;
        Ok(())
    }

    fn pollable(&mut self) -> wasmtime::Result<Resource<Pollable>> {
        self.hold()?;
        Ok(Resource::new_own(0))
    }

    /// A guest's runtime ends its program: what it printed last says why.
    fn exited(&mut self) -> wasmtime::Error {
        let printed = self.call.log.last_words().map(|words| format!("; the guest said: {words}")).unwrap_or_default();
        self.refuse("trap", format!("ended its own program (wasi:cli/exit){printed}"))
    }

    /// Keeps the reason for whoever made the call; the error ends the guest.
    pub(super) fn refuse(&mut self, class: &str, message: String) -> wasmtime::Error {
        self.call.refused = Some(Failure::Block(Reason::new(class, message)));
        wasmtime::Error::msg("the host call was refused")
    }

    /// What a guest prints: whole lines are logged, and the rest waits for its end.
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
    fn every_minor_of_the_packages_is_offered_and_nothing_else() {
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
    fn random_numbers_are_constant_and_not_all_alike() {
        let bytes: Vec<u8> = (0..16).map(random_byte).collect();
        assert_eq!(bytes[..8], random_number(0).to_le_bytes());
        assert_eq!(bytes[8..], random_number(1).to_le_bytes());
        assert_ne!(random_number(0), random_number(1));
    }
}
