//! Between the host and the server: a socket that passes everything on, and is late with some answers.
//!
//! Late are answers on the sessions with which the host reads documents, and there only those to questions in which a hog's name stands: as if the
//! documents of these tenants were hard to find. What such a question asks for others as well waits with it, as it would at the server.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Duration, Instant},
};

use crate::world::{SOCKET, World};

/// How late.
const DELAY: Duration = Duration::from_millis(50);
/// How the host's reading sessions call themselves.
const READING: &[u8] = b"sandmill documents";
/// What a slow question has in it.
const SLOW: &[u8] = b"hog-";

/// The socket, until this is dropped.
pub struct SlowWire {
    folder: PathBuf,
    accepting: tokio::task::JoinHandle<()>,
}

impl SlowWire {
    /// One before the server.
    pub fn lay(world: &World) -> anyhow::Result<Self> {
        let (folder, server) = (world.scratch("wire")?, world.socket()?);
        let path = folder.join(SOCKET);
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path).with_context(|| format!("listen at {}", path.display()))?;
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A session that breaks is its client's to tell.
                let server = server.clone();
                tokio::spawn(async move { pass(client, &server).await });
            }
        });
        Ok(SlowWire { folder, accepting })
    }

    /// An address as it is this way.
    pub fn address(&self, database: &str) -> String {
        format!("host='{}' user=sandmill dbname={database}", self.folder.display())
    }
}

impl Drop for SlowWire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(client: UnixStream, server: &Path) -> io::Result<()> {
    let server = UnixStream::connect(server).await?;
    let (mut questions, mut ask) = (client, server);
    let mut first = vec![0; 4_096];
    let length = questions.read(&mut first).await?;
    ask.write_all(&first[..length]).await?;
    if !holds(&first[..length], READING) {
        return tokio::io::copy_bidirectional(&mut questions, &mut ask).await.map(drop);
    }
    let late: Arc<Mutex<Option<Instant>>> = Arc::default();
    let (mut questions, mut tell) = questions.into_split();
    let (mut answers, mut ask) = ask.into_split();
    let asking = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = questions.read(&mut buffer).await?;
            if length == 0 {
                return ask.shutdown().await;
            }
            if holds(&buffer[..length], SLOW) {
                *late.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + DELAY);
            }
            ask.write_all(&buffer[..length]).await?;
        }
    };
    let answering = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = answers.read(&mut buffer).await?;
            if length == 0 {
                return tell.shutdown().await;
            }
            let until = late.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
            tell.write_all(&buffer[..length]).await?;
        }
    };
    tokio::try_join!(asking, answering).map(drop)
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
