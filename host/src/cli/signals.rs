//! SIGTERM and SIGINT (Ctrl-C) as commands see them.
//!
//! A command runs on its own thread; the main thread waits for it and for signals. The process ends
//! when the main thread returns, so a blocked command cannot keep it alive.
//!
//! At the first signal, `run`, `dev` and `demo` finish the work in progress. Any other command ends
//! at once, and the database rolls back its uncommitted work. A second signal ends every command at
//! once. All commands handle both signals, because the kernel ignores a signal for which the first
//! process of a container has no handler.

use std::{io, process::ExitCode, thread, time::Duration};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::output::{self, Tone};

/// Maximum time that a command has to clean up after a signal that ends it at once. 400 ms:
/// cleaning up takes milliseconds unless the machine is busy.
const AT_ONCE: Duration = Duration::from_millis(400);
/// Offset of the exit code after a signal, as in shells: 128 plus the number of the signal.
const BY_SIGNAL: u8 = 128;

/// The signals received so far.
#[derive(Clone)]
pub(super) struct Signals(watch::Receiver<ReceivedSignals>);

#[derive(Clone, Copy, Debug, Default)]
struct ReceivedSignals {
    times: u32,
    /// The number of the latest one.
    last: u8,
}

impl Signals {
    /// Waits for the first signal.
    pub(super) async fn first(&self) {
        self.nth(1).await;
    }

    /// Waits for the second signal.
    pub(super) async fn second(&self) {
        self.nth(2).await;
    }

    async fn nth(&self, number: u32) {
        let mut received = self.0.clone();
        if received.wait_for(|received| received.times >= number).await.is_err() {
            // The listener ends only with the process.
            std::future::pending().await
        }
    }

    /// The exit code of a command that a signal ended before it was done.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(BY_SIGNAL + self.0.borrow().last)
    }

    /// Runs blocking work until it is done or a signal arrives. At a signal, calls `end`, which
    /// must end what the work waits for, and returns `None`.
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
                // The process may end before the work does.
                let _ = timeout(AT_ONCE / 2, work).await;
                Ok(None)
            }
        }
    }
}

/// Runs a command and passes it the signals that arrive. Returns its exit code, or that of the
/// signal if the command does not end in time.
pub(super) fn run_interruptible(
    is_graceful: bool,
    command: impl FnOnce(Signals) -> ExitCode + Send + 'static,
) -> ExitCode {
    let (runtime, mut listener) = match listen() {
        Ok(listening) => listening,
        Err(error) => {
            output::message(Tone::Bad, "error:", &format!("cannot listen for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (sender, received) = watch::channel(ReceivedSignals::default());
    let (done, mut ended) = oneshot::channel();
    // The stack size of the main thread.
    let thread = thread::Builder::new().name("command".into()).stack_size(8 << 20);
    let spawned = thread.spawn(move || {
        // Sending fails only after the main thread has ended.
        let _ = done.send(command(Signals(received)));
    });
    if let Err(error) = spawned {
        output::message(Tone::Bad, "error:", &format!("cannot start a thread: {error}"));
        return ExitCode::FAILURE;
    }
    // The panic itself was reported by the thread.
    let panicked = ExitCode::from(101);
    runtime.block_on(async {
        loop {
            let signal = tokio::select! {
                ended = &mut ended => return ended.unwrap_or(panicked),
                signal = listener.next() => signal,
            };
            sender.send_modify(|received| *received = ReceivedSignals { times: received.times + 1, last: signal });
            if !is_graceful || sender.borrow().times > 1 {
                let ended = timeout(AT_ONCE, &mut ended).await;
                return ended.map_or(ExitCode::from(BY_SIGNAL + signal), |ended| ended.unwrap_or(panicked));
            }
        }
    })
}

/// A listener for both signals.
struct SignalListener {
    terminate: Signal,
    interrupt: Signal,
}

impl SignalListener {
    /// The number of the next signal.
    async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        };
        u8::try_from(kind.as_raw_value()).unwrap_or_default()
    }
}

fn listen() -> io::Result<(Runtime, SignalListener)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _within = runtime.enter();
        SignalListener { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? }
    };
    Ok((runtime, listener))
}
