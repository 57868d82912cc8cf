//! The host's side of a compiler's process: start it, feed it, wait for it no longer than said, and say how it ended.

use std::{
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use rustix::{io::Errno, process::Signal};

use super::{
    Code, CompileError,
    queue::Queue,
    worker::{BAD_COMPONENT, Bounds},
};

/// What is read of a compiler's last words.
const SAID_BYTES: u64 = 16 << 10;

/// Compiles a component in a process of its own, which may take so many seconds by the clock on the wall.
pub(super) fn compile(
    worker: &Path,
    bounds: Bounds,
    patience: u64,
    queue: &Queue,
    component: &[u8],
) -> Result<Code, CompileError> {
    let program = program(worker);
    let mut command = Command::new(&program);
    command
        .arg0("sandmill")
        .arg("compile-component")
        .args(["--memory-mib", &bounds.memory_mib.to_string()])
        .args(["--seconds", &bounds.seconds.to_string()])
        // Nothing of this host's surroundings is a stranger's business; the database's password least of all.
        .env_clear()
        .env("RAYON_NUM_THREADS", threads().to_string())
        .current_dir("/")
        // Killed together with whatever it starts.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_started(&program, &error))?;
    queue.started(&child);
    let ended = attend(&mut child, bounds, patience, queue, component);
    if ended.is_err() {
        // Whatever went wrong on this side, no compiler stays behind.
        queue.kill(&child);
        let _ = wait(&mut child, queue);
    }
    judge(ended.map_err(|e| CompileError::Worker(e.to_string()))?, bounds, patience, queue)
}

/// Why there is no process: for lack of what the system has too little of now, or for another
/// reason.
fn not_started(program: &Path, error: &io::Error) -> CompileError {
    // The last one: somebody is just writing the program.
    const SCARCE: [Errno; 5] = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::TXTBSY];
    let scarce = Errno::from_io_error(error).is_some_and(|errno| SCARCE.contains(&errno));
    if scarce {
        return CompileError::Scarce(error.to_string());
    }
    CompileError::Worker(format!("start {}: {error}; see compile.worker", program.display()))
}

/// Waits for a compiler that ends by itself, or was killed.
fn wait(child: &mut Child, queue: &Queue) -> io::Result<ExitStatus> {
    loop {
        match queue.reap(child)? {
            Some(status) => return Ok(status),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The program that compiles. Our own is the one that runs, also when its file was replaced by a newer version meanwhile.
fn program(worker: &Path) -> PathBuf {
    let ourselves = Path::new("/proc/self/exe");
    if !worker.as_os_str().is_empty() {
        worker.into()
    } else if ourselves.exists() {
        ourselves.into()
    } else {
        std::env::current_exe().unwrap_or_else(|_| "sandmill".into())
    }
}

/// Few enough to leave the other cores alone even where the scheduler pays no heed to priorities.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get() / 2).clamp(1, 4)
}

/// How a compiler ended.
struct Ended {
    status: ExitStatus,
    code: Vec<u8>,
    said: String,
    /// It had its time and was killed.
    overdue: bool,
}

fn attend(child: &mut Child, bounds: Bounds, patience: u64, queue: &Queue, component: &[u8]) -> io::Result<Ended> {
    let deadline = Instant::now() + Duration::from_secs(patience);
    let (Some(mut input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("no pipes to it"));
    };
    thread::scope(|scope| {
        let (done, when_done) = mpsc::channel::<()>();
        // A compiler that stops reading says why on its other pipes.
        spawn(scope, move || drop(input.write_all(component)))?;
        // Code is held in memory here as it was there, so the same bound will do.
        let code = spawn(scope, move || {
            let code = read(output, bounds.memory_mib << 20);
            drop(done);
            code
        })?;
        let said = spawn(scope, move || read(errors, SAID_BYTES))?;
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let mut overdue = when_done.recv_timeout(left(deadline)) == Err(RecvTimeoutError::Timeout);
        let status = loop {
            if overdue {
                queue.kill(child);
                break wait(child, queue)?;
            }
            // Its pipe is closed, so it ends now; unless it is up to something.
            match queue.reap(child)? {
                Some(status) => break status,
                None => thread::sleep(Duration::from_millis(1)),
            }
            overdue = left(deadline).is_zero();
        };
        let joined = |reader: ScopedJoinHandle<'_, Vec<u8>>| reader.join().unwrap_or_default();
        Ok(Ended { status, code: joined(code), said: String::from_utf8_lossy(&joined(said)).into_owned(), overdue })
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().name("compiler".into()).spawn_scoped(scope, work)
}

/// What comes out of a pipe, up to one byte more than allowed; then the pipe is closed.
fn read(pipe: impl Read, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A pipe that breaks has given what it had; how the process ended tells the rest.
    let _ = pipe.take(most + 1).read_to_end(&mut bytes);
    bytes
}

fn judge(ended: Ended, bounds: Bounds, patience: u64, queue: &Queue) -> Result<Code, CompileError> {
    let Ended { status, code, said, overdue } = ended;
    let (memory, time) =
        (CompileError::Memory { mib: bounds.memory_mib }, CompileError::Time { seconds: bounds.seconds });
    if overdue {
        return Err(CompileError::Starved { waited: patience });
    }
    if code.len() as u64 > bounds.memory_mib << 20 {
        return Err(memory);
    }
    if status.success() {
        return Ok(Code { bytes: code, from: 0 });
    }
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        return Err(time);
    }
    // Not by this side: the system takes a process so, and this one first (see `worker`).
    if status.signal() == Some(Signal::KILL.as_raw()) {
        return Err(if queue.is_stopped() { CompileError::Stopped } else { CompileError::Killed });
    }
    // An allocation that fails ends a Rust program with these words, or comes back as the kernel's or the compiler's error.
    let out_of_memory = ["memory allocation of", "Cannot allocate memory", "out of memory", "failed to allocate"];
    if out_of_memory.iter().any(|words| said.contains(words)) {
        return Err(memory);
    }
    let said = said.trim();
    Err(match status.code() {
        Some(code) if code == i32::from(BAD_COMPONENT) && !said.is_empty() => CompileError::Invalid(said.into()),
        _ => CompileError::Worker(format!("it ended with {status}: {said}")),
    })
}
