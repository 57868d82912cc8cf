//! The WASI context of a store: clocks that stand still, no folder, no network, and output that
//! becomes log lines.
//!
//! The volume that a call may pass to the host bounds what it prints, and the log bounds what is
//! kept of it.

use std::{sync::Arc, time::Duration};

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{
    HostWallClock, WasiCtx, WasiCtxView, async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{DynPollable, OutputStream, Pollable, StreamResult, subscribe},
};

use super::identity::GuestIdentity;
use crate::sandbox::{
    limits::WASI_HANDLES,
    log::{GuestLog, Level},
};

/// Bytes that an output reports to accept at once.
const ROOM: usize = 64 << 10;

/// The WASI context of one store, and the table of its handles. Made at a guest's first use.
pub(in crate::sandbox) struct WasiContext {
    ctx: WasiCtx,
    table: ResourceTable,
    /// The table's entry that pollables of the clock wait for.
    past: Option<u32>,
}

impl WasiContext {
    pub(super) fn new(identity: &Arc<GuestIdentity>, log: &GuestLog) -> Self {
        let output = |level| Output { identity: identity.clone(), log: log.clone(), level };
        let mut context = WasiCtx::builder();
        context.stdout(output(Level::Info)).stderr(output(Level::Warn)).wall_clock(StandingClock);
        context.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        let mut table = ResourceTable::new();
        table.set_max_capacity(WASI_HANDLES);
        WasiContext { ctx: context.build(), table, past: None }
    }

    /// The context and the table, as the crate's functions take them.
    pub(in crate::sandbox) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }

    /// A pollable that is always ready.
    pub(in crate::sandbox) fn ready(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let past = match self.past {
            Some(past) => past,
            None => self.table.push(Past)?.rep(),
        };
        self.past = Some(past);
        subscribe(&mut self.table, Resource::<Past>::new_borrow(past))
    }
}

/// A moment of the monotonic clock. Waiting for it ends at once.
struct Past;

#[async_trait]
impl Pollable for Past {
    async fn ready(&mut self) {}
}

/// The wall clock: always 1970-01-01.
struct StandingClock;

impl HostWallClock for StandingClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// One of the two outputs of a store.
#[derive(Clone)]
struct Output {
    identity: Arc<GuestIdentity>,
    log: GuestLog,
    level: Level,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// For WASI 0.1 and 0.3, which are not linked.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, text: bytes::Bytes) -> StreamResult<()> {
        if text.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        self.log.lock().print(self.identity.name(), self.level, &text);
        Ok(())
    }

    /// Zeroes are no text. The default implementation would end a guest that writes many at once.
    fn write_zeroes(&mut self, _: usize) -> StreamResult<()> {
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(ROOM)
    }
}
