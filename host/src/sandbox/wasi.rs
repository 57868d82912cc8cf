//! WASI 0.2, without HTTP, for guests whose language brings a runtime: the crate `wasmtime-wasi`
//! over a context that grants nothing.
//!
//! The runtimes of JavaScript and Python import clocks, random numbers, files and sockets whether
//! or not a plugin uses them. So a component that imports these is accepted. But the result of a
//! call may depend on events alone. So clocks stand still and random numbers are constant. A wait
//! ends at once, since a clock that stands still would never reach its end. There is no folder and
//! no network; opening one is denied. What a guest prints becomes log lines.
//!
//! Five parts of the crate are replaced by this file's:
//!
//! - The monotonic clock waits on a timer even for a clock that stands still.
//! - Random numbers continue over calls, so results would depend on how events are batched.
//! - The order of a poll's result depends on earlier calls of the instance, and an empty poll ends
//!   a guest without a reason that its author understands.
//! - An exit ends a guest without its last words.
//! - A lookup of a name starts a runtime of `tokio` before it is denied.
//!
//! Nothing that is left of the crate waits, so guest threads need no runtime. The handles of a
//! guest are counted, because the host keeps a record of each.

use std::borrow::Cow;

use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::{
    WasiCtxView, WasiView,
    p2::{
        DynPollable, SocketError,
        bindings::{
            LinkOptions,
            cli::exit,
            clocks::monotonic_clock,
            io::poll::{self, HostPollable},
            random::{insecure, insecure_seed, random},
            sockets::{
                ip_name_lookup::{self, HostResolveAddressStream, ResolveAddressStream},
                network::{self, ErrorCode, HostNetwork, IpAddress, Network},
            },
        },
    },
    sockets::WasiSocketsView,
};

use super::{failure, guest::GuestState};

/// The stable interfaces of WASI, which plugins may import, as PACKAGE/INTERFACE.
const INTERFACES: &[&str] = &[
    "cli/environment",
    "cli/exit",
    "cli/stderr",
    "cli/stdin",
    "cli/stdout",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stderr",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "clocks/monotonic-clock",
    "clocks/wall-clock",
    "filesystem/preopens",
    "filesystem/types",
    "io/error",
    "io/poll",
    "io/streams",
    "random/insecure",
    "random/insecure-seed",
    "random/random",
    "sockets/instance-network",
    "sockets/ip-name-lookup",
    "sockets/network",
    "sockets/tcp",
    "sockets/tcp-create-socket",
    "sockets/udp",
    "sockets/udp-create-socket",
];
/// The time of the monotonic clock, nanoseconds. Not zero: some runtimes subtract from it at their
/// start.
const MONOTONIC_NOW: u64 = 24 * 3_600 * 1_000_000_000;
/// Random bytes that one call may ask for: far more than any seed.
const RANDOM_BYTES: u64 = 1 << 20;

/// Whether an import, named `wasi:PACKAGE/INTERFACE@0.2.MINOR`, is part of WASI and offered.
pub(super) fn offers(import: &str) -> bool {
    let parts = import.strip_prefix("wasi:").and_then(|name| name.split_once('@'));
    let Some((interface, version)) = parts else { return false };
    let Some(minor) = version.strip_prefix("0.2.") else { return false };
    INTERFACES.contains(&interface) && !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit())
}

/// Links WASI, which resolves imports of every minor version of 0.2.
pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut options = LinkOptions::default();
    options.network_error_code(true);
    wasmtime_wasi::p2::add_to_linker_with_options_async(linker, &options)?;
    linker.allow_shadowing(true);
    exit::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    monotonic_clock::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    poll::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    random::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    insecure::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    insecure_seed::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    ip_name_lookup::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    linker.allow_shadowing(false);
    Ok(())
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi().view()
    }
}

impl monotonic_clock::Host for GuestState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(MONOTONIC_NOW)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, _: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.wasi().ready()
    }

    fn subscribe_duration(&mut self, _: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.wasi().ready()
    }
}

impl poll::Host for GuestState {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        if pollables.is_empty() {
            return Err(self.refuse("refused-call", "polled an empty list, which would never end".into()));
        }
        let mut ready = self.wasi().view().table.poll(pollables).await?;
        ready.sort_unstable();
        Ok(ready)
    }
}

impl HostPollable for GuestState {
    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        HostPollable::ready(&mut self.wasi().view().table, pollable).await
    }

    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.wasi().view().table.block(pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::drop(&mut self.wasi().view().table, pollable)
    }
}

impl random::Host for GuestState {
    fn get_random_bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        if count > RANDOM_BYTES {
            let message = format!("asked for {count} random bytes in one call; {RANDOM_BYTES} are allowed");
            return Err(self.refuse("refused-call", message));
        }
        Ok((0..count).map(random_byte).collect())
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(random_number(0))
    }
}

impl insecure::Host for GuestState {
    fn get_insecure_random_bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        random::Host::get_random_bytes(self, count)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(random_number(0))
    }
}

impl insecure_seed::Host for GuestState {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((random_number(0), random_number(1)))
    }
}

/// The guest ends its own program. Its last words say why.
impl exit::Host for GuestState {
    fn exit(&mut self, _: Result<(), ()>) -> wasmtime::Result<()> {
        let last_words = {
            let mut log = self.log.lock();
            log.end_lines(self.identity.name());
            log.last_words().map(Cow::into_owned)
        };
        let message = failure::trap_message(last_words.as_deref(), "the guest exited: wasi:cli/exit");
        Err(self.refuse("trap", message))
    }

    fn exit_with_code(&mut self, _: u8) -> wasmtime::Result<()> {
        self.exit(Ok(()))
    }
}

impl ip_name_lookup::Host for GuestState {
    fn resolve_addresses(
        &mut self,
        _: Resource<Network>,
        _: String,
    ) -> Result<Resource<ResolveAddressStream>, SocketError> {
        Err(ErrorCode::AccessDenied.into())
    }
}

/// The errors of `ip_name_lookup`, as the crate converts them.
impl network::Host for GuestState {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        self.sockets().convert_error_code(error)
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        self.sockets().network_error_code(error)
    }
}

impl HostNetwork for GuestState {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        HostNetwork::drop(&mut self.sockets(), network)
    }
}

/// Never called, since no lookup succeeds.
impl HostResolveAddressStream for GuestState {
    fn resolve_next_address(&mut self, _: Resource<ResolveAddressStream>) -> Result<Option<IpAddress>, SocketError> {
        Err(ErrorCode::AccessDenied.into())
    }

    fn subscribe(&mut self, _: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        self.wasi().ready()
    }

    fn drop(&mut self, _: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// A number of the constant sequence that every call sees: SplitMix64 from a fixed seed.
fn random_number(index: u64) -> u64 {
    let mut z = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random_byte(index: u64) -> u8 {
    random_number(index / 8).to_le_bytes()[(index % 8) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_minor_version_of_the_listed_interfaces_is_offered_and_nothing_else() {
        for good in ["wasi:cli/environment@0.2.0", "wasi:io/poll@0.2.12", "wasi:sockets/tcp@0.2.3"] {
            assert!(offers(good), "{good}");
        }
        for bad in [
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:clocks/timezone@0.2.0",
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
