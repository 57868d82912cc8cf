//! Signals that end a command: SIGTERM, and SIGINT as Ctrl-C sends it.
//!
//! A command runs on a thread of its own. The main thread waits for it and for signals, and the
//! process ends when the main thread does, so nothing that a command waits for keeps the process
//! alive. At the first signal, `run`, `dev` and `demo` finish what is under way; any other command
//! ends, and the database rolls back what was not committed. A second signal ends all of them.
//! Every command listens, because the first process of a container has no default handlers for
//! signals.

use std::{io, process::ExitCode, thread, time::Duration};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::output::{self, Tone};

/// How long a command that must end at once may take to end what it has started. Default 400 ms: it
/// takes milliseconds, unless the machine is busy.
const AT_ONCE: Duration = Duration::from_millis(400);
/// What shells add to a signal's number for an exit code.
const BY_SIGNAL: u8 = 128;

/// The signals that have come.
#[derive(Clone)]
pub(super) struct Signals(watch::Receiver<Received>);

#[derive(Clone, Copy, Debug, Default)]
struct Received {
    times: u32,
    /// The number of the last one.
    last: u8,
}

impl Signals {
    /// Waits for the first one.
    pub(super) async fn first(&self) {
        self.nth(1).await;
    }

    /// Waits for the second one.
    pub(super) async fn second(&self) {
        self.nth(2).await;
    }

    async fn nth(&self, number: u32) {
        let mut received = self.0.clone();
        if received.wait_for(|received| received.times >= number).await.is_err() {
            // Nobody listens any more, as the process ends.
            std::future::pending().await
        }
    }

    /// The exit code of a command that a signal kept from finishing.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(BY_SIGNAL + self.0.borrow().last)
    }

    /// Runs blocking work until it is done or a signal comes. At a signal, `end` ends what the work
    /// waits for, and nothing is returned.
    pub(super) async fn unless_ended<T: Send + 'static>(
        &self,
        end: impl FnOnce(),
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<Option<T>> {
        let mut work = spawn_blocking(work);
        tokio::select! {
            done = &mut work => Ok(Some(done?)),
            () = self.first() => {
                end();
                // The process may end without it.
                let _ = timeout(AT_ONCE / 2, work).await;
                Ok(None)
            }
        }
    }
}

/// Runs a command, and returns its exit code: when it has ended, or when its time to do so is
/// up.
pub(super) fn attend(ends_in_order: bool, command: impl FnOnce(Signals) -> ExitCode + Send + 'static) -> ExitCode {
    let (runtime, mut listener) = match listen() {
        Ok(listening) => listening,
        Err(error) => {
            output::say(Tone::Bad, "error:", &format!("cannot listen to signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (tell, received) = watch::channel(Received::default());
    let (done, mut ended) = oneshot::channel();
    // As large a stack as the main thread has.
    let thread = thread::Builder::new().name("command".into()).stack_size(8 << 20);
    let spawned = thread.spawn(move || {
        // Sending fails only after the main thread has ended.
        let _ = done.send(command(Signals(received)));
    });
    if let Err(error) = spawned {
        output::say(Tone::Bad, "error:", &format!("cannot start a thread: {error}"));
        return ExitCode::FAILURE;
    }
    // A thread that panicked has said so.
    let panicked = ExitCode::from(101);
    runtime.block_on(async {
        loop {
            let signal = tokio::select! {
                ended = &mut ended => return ended.unwrap_or(panicked),
                signal = listener.next() => signal,
            };
            tell.send_modify(|received| *received = Received { times: received.times + 1, last: signal });
            if !ends_in_order || tell.borrow().times > 1 {
                let ended = timeout(AT_ONCE, &mut ended).await;
                return ended.map_or(ExitCode::from(BY_SIGNAL + signal), |ended| ended.unwrap_or(panicked));
            }
        }
    })
}

/// Listens for both signals.
struct Listener {
    terminate: Signal,
    interrupt: Signal,
}

impl Listener {
    /// The number of the next signal.
    async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        };
        u8::try_from(kind.as_raw_value()).unwrap_or_default()
    }
}

fn listen() -> io::Result<(Runtime, Listener)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _within = runtime.enter();
        Listener { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? }
    };
    Ok((runtime, listener))
}
