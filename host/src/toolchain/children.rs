//! The programs that a build runs, so that it can be ended with all of them.
//!
//! Each leads a process group of its own: what it starts ends with it, and a terminal's Ctrl-C
//! reaches this process alone, which ends them. Once ended, nothing more is started.

use std::{
    collections::HashSet,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, Output},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// Programs that run for one build. Cheap to clone.
#[derive(Clone, Default)]
pub struct Children(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    ended: bool,
    /// Those that are not reaped, each the leader of its group.
    running: HashSet<Pid>,
}

/// Ends programs when it is dropped.
pub struct EndOnDrop(pub Children);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Children {
    /// Kills the programs that run, and lets no further one begin.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        for leader in &state.running {
            // One that has just ended is as good as killed.
            let _ = kill_process_group(*leader, Signal::KILL);
        }
    }

    /// Runs a program to its end, and gives what it wrote to those of its outputs that are pipes.
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
        // Held while it begins, so that none begins unseen.
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
        // It stays unreaped, so that its number is no other process's while it may be killed.
        let ended = waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let mut state = self.lock();
        state.running.remove(&leader);
        ended?;
        child.wait()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes out of a pipe.
fn read(mut pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A pipe that breaks has given what it had.
    let _ = pipe.read_to_end(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[test]
    fn what_a_program_writes_and_how_it_ends_is_given_back() {
        let output = Children::default().output(&mut shell("echo one; echo two >&2; exit 3")).unwrap();
        assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(3), &b"one\n"[..], &b"two\n"[..]));
    }

    /// The shell waits for a program that holds its pipe and never ends.
    #[test]
    fn a_program_is_ended_with_what_it_has_started_and_no_further_one_begins() {
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
