//! The child processes of a build, which end together with it.
//!
//! Each program leads its own process group, so its children end with it. A terminal's Ctrl-C
//! reaches only this process, which ends the programs. After that no program is started.

use std::{
    collections::HashSet,
    io::{self, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// The programs of one build. Cheap to clone.
#[derive(Clone, Default)]
pub struct Children(Arc<Mutex<ChildrenState>>);

#[derive(Default)]
struct ChildrenState {
    ended: bool,
    /// The programs that are not reaped, each the leader of its group.
    running: HashSet<Pid>,
}

/// A guard that ends programs when it is dropped.
pub struct EndOnDrop(pub Children);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Children {
    /// Kills the running programs, and prevents further ones from starting.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        for leader in &state.running {
            // A program that has just ended needs no signal.
            let _ = kill_process_group(*leader, Signal::KILL);
        }
    }

    /// Whether the build was ended.
    pub(super) fn is_ended(&self) -> bool {
        self.lock().ended
    }

    /// Runs a program to its end, and returns the contents of its piped outputs.
    pub(super) fn output(&self, command: &mut Command) -> io::Result<Output> {
        let mut child = self.start(command)?;
        let (out, errors) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = thread::scope(|scope| {
            let errors = scope.spawn(|| errors.map_or_else(Vec::new, read));
            (out.map_or_else(Vec::new, read), errors.join().unwrap_or_default())
        });
        let status = self.reap(&mut child)?;
        Ok(Output { status, stdout, stderr })
    }

    fn start(&self, command: &mut Command) -> io::Result<Child> {
        // Locked during the start, so that `end` misses no program.
        let mut state = self.lock();
        if state.ended {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the build was ended"));
        }
        let child = command.process_group(0).spawn()?;
        state.running.insert(Pid::from_child(&child));
        Ok(child)
    }

    fn reap(&self, child: &mut Child) -> io::Result<std::process::ExitStatus> {
        let leader = Pid::from_child(child);
        // The program stays unreaped until the lock is held, so that `end` never signals another
        // process that reuses its number.
        let ended = waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let mut state = self.lock();
        state.running.remove(&leader);
        ended?;
        child.wait()
    }

    fn lock(&self) -> MutexGuard<'_, ChildrenState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a pipe to its end.
fn read(mut pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // After an error, the bytes read so far are kept.
    let _ = pipe.read_to_end(&mut bytes);
    bytes
}

/// The command that runs a program in `dir`, without the variables that an outer `cargo run` or
/// `cargo test` sets for its children. The crate in `dir` chooses its toolchain itself.
pub(super) fn command(program: &str, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if std::env::var_os("CARGO").is_some() {
        for inherited in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(inherited);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[test]
    fn the_outputs_and_the_exit_code_of_a_program_are_returned() {
        let output = Children::default().output(&mut shell("echo one; echo two >&2; exit 3")).unwrap();
        assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(3), &b"one\n"[..], &b"two\n"[..]));
    }

    /// The shell waits for a child that holds its pipe and never ends.
    #[test]
    fn a_program_ends_with_its_children_and_no_further_program_starts() {
        let children = Children::default();
        thread::scope(|scope| {
            let runs = scope.spawn(|| children.output(&mut shell("sleep 3600 & wait")));
            while children.lock().running.is_empty() {
                thread::yield_now();
            }
            children.end();
            assert!(!runs.join().unwrap().unwrap().status.success());
        });
        assert!(children.lock().running.is_empty());
        assert_eq!(children.output(&mut shell("true")).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
