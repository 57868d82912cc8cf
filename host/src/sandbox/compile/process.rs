//! The host's side of a compiler's process: starts it, feeds it, bounds its wall-clock time, and
//! turns its end into a result.

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
    CompileError, MachineCode,
    queue::CompilerQueue,
    worker::{BAD_COMPONENT, CompilerBounds},
};

/// Length of a compiler's error output that is read, bytes.
const ERROR_BYTES: u64 = 16 << 10;

/// Compiles a component in a separate process, within `wall_seconds` of wall-clock time.
pub(super) fn compile(
    worker: &Path,
    bounds: CompilerBounds,
    wall_seconds: u64,
    queue: &CompilerQueue,
    component: &[u8],
) -> Result<MachineCode, CompileError> {
    let program = program(worker);
    let mut command = Command::new(&program);
    command
        .arg0("sandmill")
        .arg("compile-component")
        .args(["--memory-mib", &bounds.memory_mib.to_string()])
        .args(["--seconds", &bounds.seconds.to_string()])
        // The process handles untrusted bytes, so it must not see this host's environment, least of
        // all the database's password.
        .env_clear()
        .env("RAYON_NUM_THREADS", threads().to_string())
        .current_dir("/")
        // A group, so that it is killed together with the processes that it starts.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_started(&program, &error))?;
    queue.started(&child);
    let ended = attend(&mut child, bounds, wall_seconds, queue, component);
    if ended.is_err() {
        // An error on this side must leave no compiler behind.
        queue.kill(&child);
        let _ = wait(&mut child, queue);
    }
    result_of(ended.map_err(|e| CompileError::Worker(e.to_string()))?, bounds, wall_seconds, queue)
}

/// The error of a process that could not be started, for lack of some resource or otherwise.
fn not_started(program: &Path, error: &io::Error) -> CompileError {
    // TXTBSY: the program's file is just being written.
    const SCARCE: [Errno; 5] = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::TXTBSY];
    let scarce = Errno::from_io_error(error).is_some_and(|errno| SCARCE.contains(&errno));
    if scarce {
        return CompileError::Scarce(error.to_string());
    }
    CompileError::Worker(format!("start {}: {error}; see compile.worker", program.display()))
}

/// Waits for a compiler that is about to end.
fn wait(child: &mut Child, queue: &CompilerQueue) -> io::Result<ExitStatus> {
    loop {
        match queue.reap(child)? {
            Some(status) => return Ok(status),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The program that compiles. By default it is the running program, even if its file has been
/// replaced by a newer version.
fn program(worker: &Path) -> PathBuf {
    let own = Path::new("/proc/self/exe");
    if !worker.as_os_str().is_empty() {
        worker.into()
    } else if own.exists() {
        own.into()
    } else {
        std::env::current_exe().unwrap_or_else(|_| "sandmill".into())
    }
}

/// Threads of a compiler: few enough to leave cores free even where the kernel ignores priorities.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get() / 2).clamp(1, 4)
}

/// The end of a compiler's process, with its output.
struct CompilerExit {
    status: ExitStatus,
    code: Vec<u8>,
    errors: String,
    /// Whether it was killed for its wall-clock time.
    overdue: bool,
}

fn attend(
    child: &mut Child,
    bounds: CompilerBounds,
    wall_seconds: u64,
    queue: &CompilerQueue,
    component: &[u8],
) -> io::Result<CompilerExit> {
    let deadline = Instant::now() + Duration::from_secs(wall_seconds);
    let (Some(mut input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("no pipes to it"));
    };
    thread::scope(|scope| {
        let (done, when_done) = mpsc::sync_channel::<()>(0);
        // A failure to write is no error of its own: the compiler reports on its other pipes why it
        // stopped reading.
        spawn(scope, move || drop(input.write_all(component)))?;
        // The code has to fit into memory here as it did there, so it has the same bound.
        let code = spawn(scope, move || {
            let code = read(output, bounds.memory_mib << 20);
            drop(done);
            code
        })?;
        let errors = spawn(scope, move || read(errors, ERROR_BYTES))?;
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let mut overdue = when_done.recv_timeout(left(deadline)) == Err(RecvTimeoutError::Timeout);
        let status = loop {
            if overdue {
                queue.kill(child);
                break wait(child, queue)?;
            }
            // Its pipe is closed, so it should end now; a hostile one may not.
            match queue.reap(child)? {
                Some(status) => break status,
                None => thread::sleep(Duration::from_millis(1)),
            }
            overdue = left(deadline).is_zero();
        };
        let joined = |reader: ScopedJoinHandle<'_, Vec<u8>>| reader.join().unwrap_or_default();
        Ok(CompilerExit {
            status,
            code: joined(code),
            errors: String::from_utf8_lossy(&joined(errors)).into_owned(),
            overdue,
        })
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().name("compiler".into()).spawn_scoped(scope, work)
}

/// Reads a pipe up to one byte over the maximum, then closes it.
fn read(pipe: impl Read, max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error is kept; the exit status shows what went wrong.
    let _ = pipe.take(max + 1).read_to_end(&mut bytes);
    bytes
}

fn result_of(
    ended: CompilerExit,
    bounds: CompilerBounds,
    wall_seconds: u64,
    queue: &CompilerQueue,
) -> Result<MachineCode, CompileError> {
    let CompilerExit { status, code, errors, overdue } = ended;
    let (memory, time) =
        (CompileError::Memory { mib: bounds.memory_mib }, CompileError::Time { seconds: bounds.seconds });
    if overdue {
        return Err(CompileError::Starved { waited: wall_seconds });
    }
    if code.len() as u64 > bounds.memory_mib << 20 {
        return Err(memory);
    }
    if status.success() {
        return Ok(MachineCode { bytes: code, from: 0 });
    }
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        return Err(time);
    }
    // Not killed by this side: the system kills a process so when memory is short, and a compiler
    // first (see `worker`).
    if status.signal() == Some(Signal::KILL.as_raw()) {
        return Err(if queue.is_stopped() { CompileError::Stopped } else { CompileError::Killed });
    }
    // Messages of a failed allocation: of Rust's runtime, the kernel and the compiler.
    let out_of_memory = ["memory allocation of", "Cannot allocate memory", "out of memory", "failed to allocate"];
    if out_of_memory.iter().any(|words| errors.contains(words)) {
        return Err(memory);
    }
    let errors = errors.trim();
    Err(match status.code() {
        Some(code) if code == i32::from(BAD_COMPONENT) && !errors.is_empty() => CompileError::Invalid(errors.into()),
        _ => CompileError::Worker(format!("it ended with {status}: {errors}")),
    })
}
