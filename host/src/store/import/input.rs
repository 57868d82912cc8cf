//! The input of an import: a file or a pipe, plain or compressed with gzip.
//!
//! Compression is detected by the first bytes, not by a name. Lines are read and parsed on a
//! blocking thread, a few chunks ahead of the database. Memory is bounded by the size of a chunk
//! and the number of chunks under way.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use flate2::read::MultiGzDecoder;
use tokio::sync::mpsc;

use super::line::{BYTE_ORDER_MARK, EventLine};

/// Events in one commit. 5,000: the cost of a commit is shared by many events, and its locks are
/// still held only for a moment.
const CHUNK_LINES: usize = 5_000;
/// Bytes of events in one commit. 16 MiB: a bound on memory if events are large.
const CHUNK_BYTES: usize = 16 << 20;
/// Bytes of a line in addition to its event's data and metadata. 64 KiB: the other keys need a few
/// KiB at most, in any escaped form. The rest is for white space. A file that is not NDJSON may be
/// one long line, which must not be read as a whole.
const LINE_OVERHEAD: u64 = 64 << 10;
/// Chunks that are read ahead of the database. 2: enough that neither side waits for the other.
const CHUNKS_AHEAD: usize = 2;

/// The input of an import.
pub struct ImportInput {
    reader: Box<dyn Read + Send>,
    bytes: Option<u64>,
}

impl ImportInput {
    /// A file, or standard input if the path is `-`.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(ImportInput::from_reader(io::stdin()));
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // The size of a named pipe says nothing about its content.
        Ok(ImportInput { bytes: metadata.is_file().then_some(metadata.len()), reader: Box::new(file) })
    }

    /// The content of a reader.
    pub fn from_reader(reader: impl Read + Send + 'static) -> Self {
        ImportInput { reader: Box::new(reader), bytes: None }
    }

    /// The number of bytes, if it is known beforehand.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// The reader of its bytes.
    pub(super) fn into_reader(self) -> Box<dyn Read + Send> {
        self.reader
    }

    /// Reads chunks on a thread, which ends when the receiver is dropped.
    pub(super) fn chunks(self, max_event_bytes: u32) -> mpsc::Receiver<Chunk> {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        tokio::task::spawn_blocking(move || {
            let bytes_read = Arc::new(AtomicU64::new(0));
            let counting = CountingReader { inner: self.reader, bytes_read: bytes_read.clone() };
            let mut lines = match LineReader::new(counting, max_event_bytes) {
                Ok(lines) => lines,
                Err(error) => {
                    let end = Some(InputEnd::Unreadable(error.to_string()));
                    let _ = sender.blocking_send(Chunk { end, ..Chunk::default() });
                    return;
                }
            };
            loop {
                let mut chunk = lines.next_chunk();
                chunk.bytes_read = bytes_read.load(Relaxed);
                let is_last = chunk.end.is_some();
                if sender.blocking_send(chunk).is_err() || is_last {
                    return;
                }
            }
        });
        receiver
    }
}

/// Lines that are stored together.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) lines: Vec<EventLine>,
    /// Bytes of the input on disk that were read so far.
    pub(super) bytes_read: u64,
    /// The reason if this is the last chunk.
    pub(super) end: Option<InputEnd>,
}

/// Why there are no more lines.
#[derive(Debug)]
pub(super) enum InputEnd {
    /// All lines were read.
    Complete,
    /// This line is not an event.
    BadLine { number: u64, message: String },
    /// The input cannot be read.
    Unreadable(String),
}

/// A reader that counts its bytes.
struct CountingReader {
    inner: Box<dyn Read + Send>,
    bytes_read: Arc<AtomicU64>,
}

impl Read for CountingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

/// A reader of the lines of an input, compressed or not.
pub(super) struct LineReader {
    reader: Box<dyn BufRead>,
    number: u64,
    buffer: Vec<u8>,
    max_event_bytes: u32,
}

impl LineReader {
    /// A reader of plain or compressed lines, whose events have at most `max_event_bytes`.
    pub(super) fn new(mut reader: impl Read + 'static, max_event_bytes: u32) -> io::Result<Self> {
        let mut head = Vec::with_capacity(2);
        reader.by_ref().take(2).read_to_end(&mut head)?;
        let compressed = head == [0x1f, 0x8b];
        let whole = io::Cursor::new(head).chain(reader);
        let reader: Box<dyn BufRead> = if compressed {
            Box::new(BufReader::with_capacity(64 << 10, MultiGzDecoder::new(BufReader::with_capacity(64 << 10, whole))))
        } else {
            Box::new(BufReader::with_capacity(64 << 10, whole))
        };
        Ok(LineReader { reader, number: 0, buffer: Vec::new(), max_event_bytes })
    }

    /// Reads the next chunk of lines.
    fn next_chunk(&mut self) -> Chunk {
        let mut chunk = Chunk::default();
        let mut weight = 0;
        while chunk.lines.len() < CHUNK_LINES && weight < CHUNK_BYTES {
            match self.next_line() {
                Ok(line) => {
                    weight += line.weight();
                    chunk.lines.push(line);
                }
                Err(end) => {
                    chunk.end = Some(end);
                    break;
                }
            }
        }
        chunk
    }

    /// The next line that is not blank.
    pub(super) fn next_line(&mut self) -> Result<EventLine, InputEnd> {
        loop {
            self.buffer.clear();
            let number = self.number + 1;
            let longest = u64::from(self.max_event_bytes) + LINE_OVERHEAD;
            match self.reader.by_ref().take(longest + 1).read_until(b'\n', &mut self.buffer) {
                Ok(0) => return Err(InputEnd::Complete),
                Ok(_) => {}
                Err(error) => {
                    return Err(InputEnd::BadLine { number, message: format!("cannot be read: {error}") });
                }
            }
            self.number = number;
            if self.buffer.len() as u64 > longest {
                let limit = self.max_event_bytes;
                let message = format!(
                    "is longer than {longest} bytes, so its event exceeds this store's limit of {limit} bytes; put one event on \
                     each line, or raise the limit: sandmill migrate --max-event-bytes N"
                );
                return Err(InputEnd::BadLine { number, message });
            }
            let is_ended = self.buffer.ends_with(b"\n");
            let line = self.buffer.trim_ascii_end();
            if !line.is_empty() && line != BYTE_ORDER_MARK {
                return EventLine::parse(number, line, self.max_event_bytes).map_err(|mut message| {
                    if !is_ended && message.starts_with("EOF ") {
                        message.push_str("; the input ends in the middle of this line");
                    }
                    InputEnd::BadLine { number, message }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn line(stream: &str) -> String {
        format!("{{\"stream\":\"{stream}\",\"type\":\"T\",\"data\":1}}\n")
    }

    fn read(bytes: Vec<u8>) -> Chunk {
        LineReader::new(io::Cursor::new(bytes), 1_000_000).unwrap().next_chunk()
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn streams(chunk: &Chunk) -> Vec<(u64, &str)> {
        chunk.lines.iter().map(|line| (line.number, line.stream.as_str())).collect()
    }

    #[test]
    fn blank_lines_are_counted_but_not_events_and_the_last_line_needs_no_line_end() {
        let text = format!("{}\r\n  \n{}", line("a"), line("b").trim_end());
        let chunk = read(text.into_bytes());
        assert_eq!(streams(&chunk), [(1, "a"), (4, "b")]);
        assert!(matches!(chunk.end, Some(InputEnd::Complete)));
        assert!(matches!(read(Vec::new()).end, Some(InputEnd::Complete)));
    }

    #[test]
    fn gzip_is_detected_by_its_bytes_and_may_have_several_members() {
        let chunk = read([gzip(&line("a")), gzip(&line("b"))].concat());
        assert_eq!(streams(&chunk), [(1, "a"), (2, "b")]);
        assert!(matches!(chunk.end, Some(InputEnd::Complete)));
    }

    #[test]
    fn a_truncated_file_gives_its_complete_lines() {
        let mut whole = gzip(&(line("a") + &line("b")));
        whole.truncate(whole.len() - 4);
        let chunk = read(whole);
        assert_eq!(streams(&chunk), [(1, "a"), (2, "b")]);
        assert!(
            matches!(&chunk.end, Some(InputEnd::BadLine { number: 3, message }) if message.starts_with("cannot be read"))
        );
    }

    #[test]
    fn a_byte_order_mark_is_skipped_plain_or_compressed() {
        for bytes in [format!("\u{feff}{}", line("a")).into_bytes(), gzip(&format!("\u{feff}\r\n{}", line("a")))] {
            let chunk = read(bytes);
            assert_eq!(chunk.lines.iter().map(|line| line.stream.as_str()).collect::<Vec<_>>(), ["a"]);
            assert!(matches!(chunk.end, Some(InputEnd::Complete)));
        }
    }

    #[test]
    fn an_input_that_ends_in_the_middle_of_a_line_is_reported_as_such() {
        let chunk = read((line("a") + r#"{"stream":"b","ty"#).into_bytes());
        let Some(InputEnd::BadLine { number: 2, message }) = &chunk.end else { panic!("{:?}", chunk.end) };
        assert_eq!(message, "EOF while parsing a string (column 17); the input ends in the middle of this line");
    }

    #[test]
    fn an_endless_line_is_read_only_up_to_the_longest_possible_event() {
        let mut lines = LineReader::new(io::repeat(b'['), 1_000).unwrap();
        let Err(InputEnd::BadLine { number: 1, message }) = lines.next_line() else { panic!("a line was read") };
        assert!(
            message.starts_with("is longer than 66536 bytes, so its event exceeds this store's limit of 1000 bytes"),
            "{message}"
        );
        assert!(lines.buffer.capacity() < 256 << 10, "{}", lines.buffer.capacity());
    }

    #[test]
    fn chunks_are_bounded_and_continue_where_the_last_one_ended() {
        let text: String = (0..CHUNK_LINES + 1).map(|n| line(&n.to_string())).collect();
        let mut lines = LineReader::new(io::Cursor::new(text.into_bytes()), 1_000_000).unwrap();
        let first = lines.next_chunk();
        assert!(first.lines.len() == CHUNK_LINES && first.end.is_none());
        let second = lines.next_chunk();
        assert_eq!(streams(&second), [(CHUNK_LINES as u64 + 1, CHUNK_LINES.to_string().as_str())]);
        assert!(matches!(second.end, Some(InputEnd::Complete)));
    }
}
