//! A receiver that behaves as a script wants, well or badly.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// What a receiver does about a request.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Sends these bytes, and waits for the next request.
    Send(String),
    /// Sends these bytes, and closes the connection.
    SendAndClose(String),
    /// Sends these bytes, and then the last one again and again.
    SendForever(String),
    /// Sends these bytes, and then nothing.
    SendAndHang(String),
    /// Resets the connection.
    Reset,
}

/// An answer with a status, headers and a body.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// What a receiver has seen.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
}

type Script = Arc<dyn Fn(usize) -> Act + Send + Sync>;

/// A receiver, until it is dropped.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// A receiver that acts by the number of a request, counted from 0.
    pub(super) async fn start(script: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        Receiver::start_with(Arc::new(script), None).await
    }

    /// A receiver that confirms everything.
    pub(super) async fn friendly() -> Self {
        Receiver::start(|_| Act::Send(answer("200 OK", "", "thanks"))).await
    }

    /// A receiver with TLS that confirms everything. Its certificate is for `localhost` and
    /// 127.0.0.1, from the authority of the tests.
    pub(super) async fn encrypted() -> Self {
        let chain = CertificateDer::pem_file_iter(certificate("server.crt")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let script = |_| Act::Send(answer("200 OK", "", ""));
        Receiver::start_with(Arc::new(script), Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(script: Script, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
        let task = tokio::spawn(listen(listener, script, tls, seen.clone()));
        Receiver { address, seen, task }
    }

    /// All requests so far, as text.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Number of connections so far.
    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The path of a certificate of the tests.
pub(super) fn certificate(name: &str) -> String {
    format!("{}/../tests/certificates/{name}", env!("CARGO_MANIFEST_DIR"))
}

async fn listen(listener: TcpListener, script: Script, tls: Option<TlsAcceptor>, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        seen.connections.fetch_add(1, Ordering::SeqCst);
        let (script, tls, seen) = (script.clone(), tls.clone(), seen.clone());
        connections.spawn(async move {
            // The client may close the connection at any time.
            let _ = serve(stream, script, tls, seen).await;
        });
    }
}

async fn serve(mut stream: TcpStream, script: Script, tls: Option<TlsAcceptor>, seen: Arc<Seen>) -> io::Result<()> {
    if let Some(tls) = tls {
        converse(&mut tls.accept(stream).await?, &script, &seen).await?;
        return Ok(());
    }
    if converse(&mut stream, &script, &seen).await? {
        stream.set_zero_linger()?;
    }
    Ok(())
}

/// Answers requests. Returns whether to reset the connection.
async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    script: &Script,
    seen: &Seen,
) -> io::Result<bool> {
    while let Some(request) = read(stream).await? {
        let number = {
            let mut requests = seen.requests.lock().unwrap();
            requests.push(request);
            requests.len() - 1
        };
        match script(number) {
            Act::Send(bytes) => stream.write_all(bytes.as_bytes()).await?,
            Act::SendAndClose(bytes) => {
                stream.write_all(bytes.as_bytes()).await?;
                stream.shutdown().await?;
                return Ok(false);
            }
            Act::SendForever(bytes) => {
                stream.write_all(bytes.as_bytes()).await?;
                let last = bytes[bytes.len() - 1..].repeat(1 << 16);
                loop {
                    stream.write_all(last.as_bytes()).await?;
                }
            }
            Act::SendAndHang(bytes) => {
                stream.write_all(bytes.as_bytes()).await?;
                stream.flush().await?;
                std::future::pending::<()>().await;
            }
            Act::Reset => return Ok(true),
        }
        stream.flush().await?;
    }
    Ok(false)
}

/// Reads a request; none if the connection ends before it.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse().unwrap() {
                return Ok(Some(text.into_owned()));
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}
