//! An HTTP endpoint for monitoring: `/livez`, `/readyz` and `/metrics`.
//!
//! It answers from the start of the process to its end, also while the host waits for its database.
//! The number of connections and the time of each are bounded, so clients cannot slow the host.
//! Responses contain ids of processors and numbers, and neither tenants nor events.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    db::{Db, Session, describe},
    processor::status,
    sandbox::{Sandbox, Usage},
    telemetry::{
        self,
        metrics::{Gauges, Metrics, ProcessorGauges, SandboxGauges},
    },
};

/// Connections at once. Default 64: some who watch, each with one or two, and room for those that
/// say nothing.
const CONNECTIONS: usize = 64;
/// How long a connection may take to say what it wants. Default 2 s.
const LISTEN: Duration = Duration::from_secs(2);
/// How long the database may compute for the metrics, which it does again at the next reading.
const STATEMENT: &str = "set statement_timeout = '4s'";
/// How long the database may take to answer. Default 5 s.
const PATIENCE: Duration = Duration::from_secs(5);
/// The text format of OpenMetrics, which Prometheus reads.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its database, or prepares it.
    Starting,
    /// Another host works; this one takes over when that is gone.
    StandingBy,
    /// It works.
    Working,
}

/// The state behind the endpoint. Without an address it is kept too, and nothing serves it.
pub struct Watched {
    /// What the host counts.
    pub metrics: Metrics,
    phase: watch::Sender<Phase>,
    sandbox: OnceLock<Sandbox>,
    session: Mutex<Option<Session>>,
    db: Db,
}

impl Watched {
    /// A host that begins.
    pub fn new(db: Db) -> Arc<Self> {
        let (phase, _) = watch::channel(Phase::Starting);
        Arc::new(Watched {
            metrics: Metrics::default(),
            phase,
            sandbox: OnceLock::new(),
            session: Mutex::default(),
            db,
        })
    }

    /// What the host does from now on.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Where plugins run.
    pub fn plugins_run_in(&self, sandbox: Sandbox) {
        self.sandbox.get_or_init(|| sandbox);
    }

    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The current gauges; none while another request reads them.
    async fn gauges(&self) -> Option<Gauges> {
        let mut session = self.session.try_lock().ok()?;
        let mut database_up = false;
        let asked = timeout(PATIENCE, self.processors(&mut session, &mut database_up)).await;
        let processors = match asked {
            Ok(Ok(processors)) => Some(processors),
            Ok(Err(error)) => {
                tracing::debug!(error, "could not ask the database for metrics");
                None
            }
            Err(_) => None,
        };
        Some(Gauges {
            ready: self.phase() != Phase::Starting,
            log_lines_lost: telemetry::lines_lost(),
            sandbox: self.sandbox.get().map(|sandbox| of_sandbox(sandbox.usage())),
            database_up,
            processors,
        })
    }

    async fn processors(&self, kept: &mut Option<Session>, up: &mut bool) -> Result<Vec<ProcessorGauges>, String> {
        // One that failed, or was given up, is not used again.
        let session = match kept.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => self.db.connect("metrics").await.map_err(|error| describe(&error))?,
        };
        session.batch_execute(STATEMENT).await.map_err(|error| describe(&error))?;
        *up = true;
        let status = status::read(&session, 0).await.map_err(|error| describe(&error))?;
        *kept = Some(session);
        Ok(status.processors.into_iter().map(gauges).collect())
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<String> {
        let text = |status: StatusCode, text: &str| with(status, "text/plain; charset=utf-8", format!("{text}\n"));
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood");
        }
        match path {
            "/livez" => text(StatusCode::OK, "alive"),
            "/readyz" => match self.phase() {
                Phase::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "waits for its database"),
                Phase::StandingBy => text(StatusCode::OK, "stands by"),
                Phase::Working => text(StatusCode::OK, "works"),
            },
            "/metrics" => match self.gauges().await {
                Some(gauges) => with(StatusCode::OK, METRICS, self.metrics.show(&gauges)),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "another request is reading the metrics; try again"),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics"),
        }
    }
}

fn of_sandbox(usage: Usage) -> SandboxGauges {
    let (compiled, took) = usage.compiled;
    SandboxGauges {
        in_call: usage.live.saturating_sub(usage.idle),
        idle: usage.idle,
        memory_bytes: usage.memory_bytes,
        refusals: usage.refusals.into_iter().collect(),
        compiled: (compiled, took.as_secs_f64()),
    }
}

fn gauges(p: status::ProcessorStatus) -> ProcessorGauges {
    let counted = p.lanes_counted;
    let lanes = vec![
        ("blocked", counted.blocked),
        ("retrying", counted.retrying),
        ("paused", counted.paused),
        ("catching-up", counted.catching_up),
    ];
    let (lag_events, lag_seconds) = (p.lag_events, p.lag_seconds);
    ProcessorGauges {
        id: p.id,
        lag_events,
        lag_seconds,
        lanes,
        dead_letters: p.dead_letters,
        paused: p.paused.is_some(),
    }
}

fn with(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A server that ends when this is dropped.
pub struct Listener {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Listener {
    /// Begins to listen at an address, such as `127.0.0.1:9464`; port 0 is any that is free.
    pub async fn start(address: &str, watched: Arc<Watched>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen at {address}; name another address and port with --listen, or with `listen` in the settings")
        })?;
        let address = listener.local_addr()?;
        Ok(Listener { address, task: tokio::spawn(listen(listener, watched)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, watched: Arc<Watched>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let watched = watched.clone();
                tokio::spawn(async move {
                    // A client that disconnects or sends nothing is not an error.
                    let _ = serve(stream, watched).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, watched: Arc<Watched>) -> io::Result<()> {
    let answer = service_fn(|request: Request<hyper::body::Incoming>| {
        let watched = watched.clone();
        async move { Ok::<_, Infallible>(watched.answer(request.method(), request.uri().path()).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(LISTEN).keep_alive(false);
    let connection = server.serve_connection(TokioIo::new(stream), answer);
    // Also bounds a client that does not read its response.
    timeout(PATIENCE * 3, connection).await.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::other)
}
