//! The three streams of a program: nothing comes in, and what goes out becomes log lines.
//!
//! A stream holds nothing here: an input is at its end from the start, and an output takes what it is given, within what one call may pass to the host.

use wasmtime::{
    StoreContextMut,
    component::{ComponentType, LinkerInstance, Lower, Resource},
};

use super::Pollable;
use crate::sandbox::instance::State;

/// What an output says that it takes at once, bytes.
const ROOM: u64 = 64 << 10;
/// Which output it is.
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// Why a stream failed. None ever does.
pub(super) struct Broken;
/// A stream that is at its end.
pub(super) struct Input;
/// A stream that becomes log lines.
pub(super) struct Output;

/// `wasi:io/streams#stream-error`.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "the contract has it, and nothing here can fail")]
    LastOperationFailed(Resource<Broken>),
    #[component(name = "closed")]
    Closed,
}

type Answer<T> = Result<T, StreamError>;
type Store<'a> = StoreContextMut<'a, State>;
type In = Resource<Input>;
type Out = Resource<Output>;

/// Whether a function is one of these.
pub(super) fn has(interface: &str, name: &str) -> bool {
    matches!(interface, "cli/stdin" | "cli/stdout" | "cli/stderr" | "io/streams" | "io/error")
        && !name.starts_with("[static]")
}

pub(super) fn function(linker: &mut LinkerInstance<'_, State>, interface: &str, name: &str) -> wasmtime::Result<()> {
    let method = name.strip_prefix("[method]").unwrap_or(name);
    match (interface, method) {
        ("cli/stdin", _) => linker.func_wrap(name, |mut store: Store<'_>, ()| {
            store.data_mut().hold()?;
            Ok((In::new_own(0),))
        }),
        ("cli/stdout", _) => linker.func_wrap(name, |store, ()| output(store, STDOUT)),
        ("cli/stderr", _) => linker.func_wrap(name, |store, ()| output(store, STDERR)),
        ("io/error", _) => linker.func_wrap(name, |_, (_,): (Resource<Broken>,)| Ok((String::new(),))),
        (_, "input-stream.read" | "input-stream.blocking-read") => {
            linker.func_wrap(name, |_, (_, _): (In, u64)| Ok((Answer::<Vec<u8>>::Err(StreamError::Closed),)))
        }
        (_, "input-stream.skip" | "input-stream.blocking-skip") => {
            linker.func_wrap(name, |_, (_, _): (In, u64)| Ok((Answer::<u64>::Err(StreamError::Closed),)))
        }
        (_, "input-stream.subscribe") => linker.func_wrap(name, |store, (_,): (In,)| ready(store)),
        (_, "output-stream.subscribe") => linker.func_wrap(name, |store, (_,): (Out,)| ready(store)),
        (_, "output-stream.check-write") => linker.func_wrap(name, |_, (_,): (Out,)| Ok((Answer::Ok(ROOM),))),
        (_, "output-stream.write" | "output-stream.blocking-write-and-flush") => {
            linker.func_wrap(name, |mut store: Store<'_>, (stream, bytes): (Out, Vec<u8>)| {
                store.data_mut().print(stream.rep() == STDERR, &bytes);
                Ok((Answer::Ok(()),))
            })
        }
        (_, "output-stream.write-zeroes" | "output-stream.blocking-write-zeroes-and-flush") => {
            linker.func_wrap(name, |_, (_, _): (Out, u64)| Ok((Answer::Ok(()),)))
        }
        (_, "output-stream.splice" | "output-stream.blocking-splice") => {
            linker.func_wrap(name, |_, (_, _, _): (Out, In, u64)| Ok((Answer::<u64>::Err(StreamError::Closed),)))
        }
        // `flush` and `blocking-flush`.
        _ => linker.func_wrap(name, |_, (_,): (Out,)| Ok((Answer::Ok(()),))),
    }
}

fn output(mut store: Store<'_>, which: u32) -> wasmtime::Result<(Out,)> {
    store.data_mut().hold()?;
    Ok((Out::new_own(which),))
}

fn ready(mut store: Store<'_>) -> wasmtime::Result<(Resource<Pollable>,)> {
    Ok((store.data_mut().pollable()?,))
}
