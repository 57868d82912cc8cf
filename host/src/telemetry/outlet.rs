//! A bounded queue of text in front of a file descriptor. Writers never wait and never fail.
//!
//! A dedicated thread writes the queue. While a pipe's reader stalls, a terminal is stopped or a
//! disk is full, text is queued up to a bound in bytes. Further text is dropped and counted. Once
//! writing works again, a note states how many lines were lost. Errors have no other effect. The
//! descriptor is written directly, because the standard library would hold a lock while a write
//! blocks. The thread ends with the process.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Maximum bytes of queued text. 1 MiB: some seconds of the largest log volume that tenants may
/// have, and little of the host's memory.
const QUEUE_BYTES: usize = 1 << 20;
/// Duration of one write after which the reader counts as stalled, so that the end of the process
/// does not wait for it. 500 ms: a working reader takes milliseconds.
const STALLED: Duration = Duration::from_millis(500);
/// Maximum wait at the end of the process, even if the reader keeps reading. 5 s: the thread may
/// have to wait for a core.
const LONGEST_FLUSH: Duration = Duration::from_secs(5);
/// Delay before a write is retried, if another process has made the descriptor non-blocking. 20 ms:
/// short for a person, and cheap.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// A bounded queue in front of a file descriptor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outlet(Arc<OutletInner>);

#[derive(Debug)]
struct OutletInner {
    max_bytes: usize,
    /// The note in the output for a number of lost lines.
    note: fn(u64) -> String,
    state: Mutex<QueueState>,
    /// Signals that text was queued or written.
    changed: Condvar,
}

/// The queue, and the state of the thread that writes it.
#[derive(Debug, Default)]
struct QueueState {
    queued: Vec<Piece>,
    /// Bytes of text that are queued or being written.
    bytes: usize,
    /// The beginning of the thread's current write.
    since: Option<Instant>,
    /// Lost lines that no note in the output covers yet.
    unreported: u64,
    /// All lost lines.
    lost: u64,
    /// The error of the last write, if it failed.
    failed: Option<io::ErrorKind>,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    /// A number of lines is missing here.
    Gap(u64),
}

impl Outlet {
    /// A queue for a descriptor, with a note in place of lost lines.
    pub fn to(file: impl AsFd, note: fn(u64) -> String) -> io::Result<Self> {
        Outlet::within(QUEUE_BYTES, file, note)
    }

    fn within(max_bytes: usize, file: impl AsFd, note: fn(u64) -> String) -> io::Result<Self> {
        let file = file.as_fd().try_clone_to_owned()?;
        let shared = Arc::new(OutletInner { max_bytes, note, state: Mutex::default(), changed: Condvar::new() });
        let writer = shared.clone();
        std::thread::Builder::new().name("outlet".into()).spawn(move || writer.work(&file))?;
        Ok(Outlet(shared))
    }

    /// Queues whole lines of text, or drops them if the queue is full.
    pub fn push(&self, text: &str) {
        let mut state = self.0.lock();
        if state.bytes + text.len() > self.0.max_bytes {
            state.lose(text.as_bytes());
            return;
        }
        if state.unreported > 0 {
            let gap = Piece::Gap(std::mem::take(&mut state.unreported));
            state.queued.push(gap);
        }
        match state.queued.last_mut() {
            Some(Piece::Text(last)) => last.push_str(text),
            _ => state.queued.push(Piece::Text(text.into())),
        }
        state.bytes += text.len();
        let is_idle = state.since.is_none();
        drop(state);
        if is_idle {
            self.0.changed.notify_all();
        }
    }

    /// Whether everything is written.
    pub fn is_idle(&self) -> bool {
        self.0.lock().is_idle()
    }

    /// Number of lines dropped so far.
    pub fn lost(&self) -> u64 {
        self.0.lock().lost
    }

    /// The error of the last write; none if it succeeded.
    pub fn failed(&self) -> Option<io::ErrorKind> {
        self.0.lock().failed
    }

    /// Waits until everything is written, but not for a reader that stalls. Returns whether
    /// everything is written.
    pub fn flush(&self) -> bool {
        let (mut state, began) = (self.0.lock(), Instant::now());
        while !state.is_idle() {
            let stalled = state.since.map_or(STALLED, |since| STALLED.saturating_sub(since.elapsed()));
            let wait = stalled.min(LONGEST_FLUSH.saturating_sub(began.elapsed()));
            if wait.is_zero() {
                return false;
            }
            let waited = self.0.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl QueueState {
    fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.since.is_none()
    }

    fn lose(&mut self, text: &[u8]) {
        let lines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.unreported += lines;
        self.lost += lines;
    }
}

impl OutletInner {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Nothing panics while holding it, and the queue is consistent between any two calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the queue until the process ends.
    fn work(&self, file: &OwnedFd) {
        // Whether the output ends within a line.
        let mut is_torn = false;
        loop {
            let pieces = self.take();
            let (mut failed, mut lost) = (None, Vec::new());
            for piece in &pieces {
                let text = match piece {
                    Piece::Text(text) => text,
                    Piece::Gap(lines) => &(self.note)(*lines),
                };
                if failed.is_none() && is_torn {
                    failed = write(file, b"\n").1.err();
                }
                let mut written = 0;
                if failed.is_none() {
                    let (bytes, result) = write(file, text.as_bytes());
                    (written, failed) = (bytes, result.err());
                    is_torn = written > 0 && text.as_bytes().get(written - 1) != Some(&b'\n');
                }
                if failed.is_some() {
                    lost.push((piece, written));
                }
            }
            let mut state = self.lock();
            for (piece, written) in lost {
                match piece {
                    Piece::Text(text) => state.lose(text.as_bytes().get(written..).unwrap_or_default()),
                    Piece::Gap(lines) => state.unreported += lines,
                }
            }
            let texts = pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 0 });
            state.bytes -= texts.sum::<usize>();
            (state.failed, state.since) = (failed.map(|error| error.kind()), None);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits for queued text, and takes all of it.
    fn take(&self) -> Vec<Piece> {
        let mut state = self.lock();
        loop {
            let mut pieces = std::mem::take(&mut state.queued);
            // The last lost lines are reported even if no text follows, unless writing fails.
            if pieces.is_empty() && state.unreported > 0 && state.failed.is_none() {
                pieces.push(Piece::Gap(std::mem::take(&mut state.unreported)));
            }
            if !pieces.is_empty() {
                state.since = Some(Instant::now());
                return pieces;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes all bytes, or as many as possible. Returns their number, and the error that ended it.
fn write(file: &OwnedFd, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match rustix::io::write(file, rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => written += bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(RETRY_DELAY),
            Err(error) => return (written, Err(error.into())),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;

    use super::*;

    fn note(lines: u64) -> String {
        format!("{lines} lost\n")
    }

    #[test]
    fn a_stalled_reader_blocks_no_writer_and_sees_how_much_it_missed() {
        let (reader, writer) = io::pipe().unwrap();
        // More than a pipe holds, so that the thread blocks in its write.
        let line = format!("{}\n", "x".repeat(1 << 10));
        let outlet = Outlet::within(200 * line.len(), &writer, note).unwrap();
        for _ in 0..1_000 {
            outlet.push(&line);
        }
        let lost = outlet.lost();
        assert!(lost >= 1_000 - 200 - 64, "the queue is bounded: {lost}");
        assert!(!outlet.flush(), "nobody reads");
        // Notes may stand between the lines: the queue may fill up before the pipe does.
        let mut output = io::BufReader::new(&reader).lines();
        let (mut lines, mut noted) = (0, 0);
        while lines + noted < 1_000 {
            let found = output.next().unwrap().unwrap();
            match found.strip_suffix(" lost") {
                Some(count) => noted += count.parse::<u64>().unwrap(),
                None => {
                    assert_eq!(found, line.trim_end(), "queued text arrives whole");
                    lines += 1;
                }
            }
        }
        assert_eq!(noted, lost);
        assert!(outlet.flush() && outlet.is_idle() && outlet.failed().is_none());
        assert_eq!(outlet.lost(), lost);
    }

    #[test]
    fn a_write_error_loses_the_lines_and_has_no_other_effect() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let outlet = Outlet::to(&full, note).unwrap();
        outlet.push("one\ntwo\n");
        assert!(outlet.flush());
        assert_eq!((outlet.lost(), outlet.failed()), (2, Some(io::ErrorKind::StorageFull)));

        let (reader, writer) = io::pipe().unwrap();
        let outlet = Outlet::to(&writer, note).unwrap();
        outlet.push("one\n");
        assert!(outlet.flush());
        drop(reader);
        outlet.push("two\n");
        assert!(outlet.flush());
        assert_eq!((outlet.lost(), outlet.failed()), (1, Some(io::ErrorKind::BrokenPipe)));
    }
}
