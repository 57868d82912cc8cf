//! The watchdog: the shell script that runs a private server, and the pipes to it.
//!
//! Orders are written to its standard input, and each is answered by the exit code of the program
//! that carried it out. The end of standard input stops the server, so the server cannot outlive
//! the process that owns it, even if that is killed. All calls here block; callers on a runtime use
//! [`blocking`].

use std::{
    fs, io,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use super::{
    EmbeddedError, Shutdown,
    home::{ServerAccount, ServerHome},
};

const SCRIPT: &str = include_str!("watchdog.sh");

/// The script and the two pipes to it.
#[derive(Debug)]
pub(super) struct Watchdog {
    child: Child,
    /// The server may live as long as this is open.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// A step of a server's life cycle.
#[derive(Clone, Copy)]
pub(super) enum ServerOrder {
    /// Create the data directory.
    Create,
    Start,
    Stop(Shutdown),
}

impl ServerOrder {
    /// The order as the script reads it.
    fn word(self) -> &'static str {
        match self {
            ServerOrder::Create => "create",
            ServerOrder::Start => "start",
            ServerOrder::Stop(Shutdown::Fast) => "fast",
            ServerOrder::Stop(Shutdown::Immediate) => "immediate",
        }
    }

    /// The step in an error.
    fn step(self) -> &'static str {
        match self {
            ServerOrder::Create => "create its data directory",
            ServerOrder::Start => "start",
            ServerOrder::Stop(_) => "stop",
        }
    }
}

impl Watchdog {
    /// Starts the script, which from then on removes the run directory when it ends.
    pub(super) fn spawn(home: ServerHome, options: &str, durable: bool) -> Result<Self, EmbeddedError> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sandmill-watchdog"]);
        command.arg(home.run.path()).arg(&home.data).arg(&home.programs.directory).arg(options);
        command.arg(if durable { "yes" } else { "no" });
        // Out of the terminal's foreground group: Ctrl-C reaches only the owner, which decides how
        // to end.
        command.process_group(0);
        // The server's user may have no access to the current directory, and the variables for
        // clients are not meant for the server.
        command.current_dir("/").env("LC_ALL", "C");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some(ServerAccount { uid, gid }) = home.account {
            command.uid(uid).gid(gid);
        }
        // Descriptors that the standard library opens close on exec, so the script inherits only
        // these three.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(EmbeddedError::Watchdog)?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(EmbeddedError::Watchdog(io::Error::other("it has no pipes")));
        };
        let _ = home.run.keep();
        Ok(Watchdog { child, orders: Some(orders), answers: BufReader::new(answers) })
    }

    /// Gives one order and waits for its answer: whether the program behind it succeeded.
    fn ask(&mut self, word: &str) -> io::Result<bool> {
        let orders = self.orders.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(orders, "{word}")?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.trim() == "0")
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.orders = None;
        // The script ends once the server is stopped, and pg_ctl bounds how long that takes. An
        // error has no receiver any longer.
        let _ = self.child.wait();
    }
}

/// Gives an order. An error carries the end of the log in the run directory.
pub(super) fn order(watchdog: &Mutex<Watchdog>, run: &Path, order: ServerOrder) -> Result<(), EmbeddedError> {
    let mut watchdog = watchdog.lock().unwrap_or_else(PoisonError::into_inner);
    match watchdog.ask(order.word()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(EmbeddedError::Server { step: order.step(), log: tail_of_log(run) }),
        Err(error) => Err(EmbeddedError::Watchdog(error)),
    }
}

/// Runs blocking work on a thread for it. The work completes even if the caller stops waiting.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, EmbeddedError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(EmbeddedError::Watchdog(io::Error::other(error))),
    }
}

/// The server's log in its run directory.
pub(super) fn log_file(run: &Path) -> PathBuf {
    run.join("server.log")
}

/// The last lines of the server's log.
fn tail_of_log(run: &Path) -> String {
    match fs::read(log_file(run)) {
        Ok(log) => {
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(20)..]
                .iter()
                .map(|line| format!("  {line}"))
                .collect::<Vec<_>>()
                .join("\n")
        }
        Err(error) => format!("  (cannot be read: {error})"),
    }
}
