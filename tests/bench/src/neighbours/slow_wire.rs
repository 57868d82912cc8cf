//! A proxy socket between the host and the server, which delays some answers.
//!
//! It delays answers on the host's sessions that read documents, and only answers to queries that
//! contain a hog's name, as if the documents of these tenants were slow to find. Such a query may
//! also ask for documents of other tenants; they wait with it, as they would at the server.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use sandmill::projections::documents::{READS, SLOW_READS};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Duration, Instant},
};

use crate::world::{SOCKET, World};

/// The delay of an answer.
const DELAY: Duration = Duration::from_millis(50);
/// The purposes of the host's sessions that read documents.
const READING: [&str; 2] = [READS, SLOW_READS];
/// The text that marks a slow query.
const SLOW: &[u8] = b"hog-";

/// The proxy socket, which is closed when this is dropped.
pub struct SlowWire {
    folder: PathBuf,
    accepting: tokio::task::JoinHandle<()>,
}

impl SlowWire {
    /// Opens a proxy socket for the server.
    pub fn open(world: &World) -> anyhow::Result<Self> {
        let (folder, server) = (world.scratch("wire")?, world.socket()?);
        let path = folder.join(SOCKET);
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path).with_context(|| format!("listen at {}", path.display()))?;
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // The client reports a broken session.
                let server = server.clone();
                tokio::spawn(async move { pass(client, &server).await });
            }
        });
        Ok(SlowWire { folder, accepting })
    }

    /// The address of a database through the proxy.
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
    let is_for = |purpose: &str| holds(&first[..length], format!("sandmill {purpose} ").as_bytes());
    if !READING.into_iter().any(is_for) {
        return tokio::io::copy_bidirectional(&mut questions, &mut ask).await.map(drop);
    }
    let late: Arc<Mutex<Option<Instant>>> = Arc::default();
    let (mut questions, mut client) = questions.into_split();
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
                return client.shutdown().await;
            }
            let until = late.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
            client.write_all(&buffer[..length]).await?;
        }
    };
    tokio::try_join!(asking, answering).map(drop)
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
