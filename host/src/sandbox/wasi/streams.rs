//! The three standard streams: input is empty, output becomes log lines.
//!
//! A stream has no state here. Input is at its end from the start. Output accepts what it is given,
//! within the volume that one call may pass to the host.

use wasmtime::component::{ComponentType, LinkerInstance, Lower, Resource};

use super::{Caller, Pollable};
use crate::sandbox::guest::GuestState;

/// Bytes that an output reports to accept at once.
const ROOM: u64 = 64 << 10;
/// Handles of the two outputs.
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// The reason of a failed stream. No stream ever fails.
pub(super) struct StreamFailure;
/// A stream that is at its end.
pub(super) struct EmptyInput;
/// A stream whose content becomes log lines.
pub(super) struct LogOutput;

/// `wasi:io/streams#stream-error`.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "part of the WIT type, though nothing here can fail")]
    LastOperationFailed(Resource<StreamFailure>),
    #[component(name = "closed")]
    Closed,
}

type StreamResult<T> = Result<T, StreamError>;
type In = Resource<EmptyInput>;
type Out = Resource<LogOutput>;

/// Whether a function belongs to the streams.
pub(super) fn has(interface: &str, name: &str) -> bool {
    matches!(interface, "cli/stdin" | "cli/stdout" | "cli/stderr" | "io/streams" | "io/error")
        && !name.starts_with("[static]")
}

pub(super) fn function(
    linker: &mut LinkerInstance<'_, GuestState>,
    interface: &str,
    name: &str,
) -> wasmtime::Result<()> {
    let method = name.strip_prefix("[method]").unwrap_or(name);
    match (interface, method) {
        ("cli/stdin", _) => linker.func_wrap(name, |mut store: Caller<'_>, ()| {
            store.data_mut().hold()?;
            Ok((In::new_own(0),))
        }),
        ("cli/stdout", _) => linker.func_wrap(name, |store, ()| output(store, STDOUT)),
        ("cli/stderr", _) => linker.func_wrap(name, |store, ()| output(store, STDERR)),
        ("io/error", _) => linker.func_wrap(name, |_, (_,): (Resource<StreamFailure>,)| Ok((String::new(),))),
        (_, "input-stream.read" | "input-stream.blocking-read") => {
            linker.func_wrap(name, |_, (_, _): (In, u64)| Ok((StreamResult::<Vec<u8>>::Err(StreamError::Closed),)))
        }
        (_, "input-stream.skip" | "input-stream.blocking-skip") => {
            linker.func_wrap(name, |_, (_, _): (In, u64)| Ok((StreamResult::<u64>::Err(StreamError::Closed),)))
        }
        (_, "input-stream.subscribe") => linker.func_wrap(name, |store, (_,): (In,)| ready(store)),
        (_, "output-stream.subscribe") => linker.func_wrap(name, |store, (_,): (Out,)| ready(store)),
        (_, "output-stream.check-write") => linker.func_wrap(name, |_, (_,): (Out,)| Ok((StreamResult::Ok(ROOM),))),
        (_, "output-stream.write" | "output-stream.blocking-write-and-flush") => {
            linker.func_wrap(name, |mut store: Caller<'_>, (stream, bytes): (Out, Vec<u8>)| {
                store.data_mut().print(stream.rep() == STDERR, &bytes);
                Ok((StreamResult::Ok(()),))
            })
        }
        (_, "output-stream.write-zeroes" | "output-stream.blocking-write-zeroes-and-flush") => {
            linker.func_wrap(name, |_, (_, _): (Out, u64)| Ok((StreamResult::Ok(()),)))
        }
        (_, "output-stream.splice" | "output-stream.blocking-splice") => {
            linker.func_wrap(name, |_, (_, _, _): (Out, In, u64)| Ok((StreamResult::<u64>::Err(StreamError::Closed),)))
        }
        // `flush` and `blocking-flush`.
        _ => linker.func_wrap(name, |_, (_,): (Out,)| Ok((StreamResult::Ok(()),))),
    }
}

fn output(mut store: Caller<'_>, which: u32) -> wasmtime::Result<(Out,)> {
    store.data_mut().hold()?;
    Ok((Out::new_own(which),))
}

fn ready(mut store: Caller<'_>) -> wasmtime::Result<(Resource<Pollable>,)> {
    Ok((store.data_mut().pollable()?,))
}
