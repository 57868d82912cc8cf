//! An HTTP endpoint for monitoring: `/livez`, `/readyz` and `/metrics`.
//!
//! It answers from the start of the process to its end, also while the host waits for its database.
//! The number of connections and the time of each are bounded, so clients cannot slow the host.
//! Responses contain numbers and ids of processors, which name the tenants of tenants' own; no events,
//! and no other tenants than an operator has listed. A service manager is notified of the same phases ([`systemd`]).

mod systemd;

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
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    db::{Db, Session, describe},
    model::ids::TenantId,
    processor::status,
    sandbox::{Sandbox, SandboxUsage},
    telemetry::{
        self,
        metrics::{Gauges, Metrics, ProcessorGauges, SandboxGauges, TenantGauges},
    },
    tenants::status::{TenantSums, sums},
};
use systemd::ServiceManager;

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

/// Tenants with metrics of their own, at most. Default 100: each has seven series.
const TENANTS: usize = 100;

/// What an operator can set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Tenants with series of their own on `/metrics`: events, guests' CPU time, refusals, lanes by
    /// state. Default: none, since readers of the metrics learn their names. At most 100.
    pub tenants: Vec<String>,
}

impl Config {
    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<(), String> {
        if self.tenants.len() > TENANTS {
            let listed = self.tenants.len();
            return Err(format!(
                "metrics.tenants lists {listed} tenants; list at most {TENANTS}. `sandmill tenants` shows all of them"
            ));
        }
        self.tenants.iter().try_for_each(|name| match TenantId::parse(name) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("metrics.tenants: {error}")),
        })
    }
}

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

impl Phase {
    fn words(self) -> &'static str {
        match self {
            Phase::Starting => "waits for its database",
            Phase::StandingBy => "stands by",
            Phase::Working => "works",
        }
    }
}

/// The state behind the endpoint. Without an address it is kept too, and nothing serves it.
pub struct Watched {
    /// What the host counts.
    pub metrics: Metrics,
    phase: watch::Sender<Phase>,
    sandbox: OnceLock<Sandbox>,
    session: Mutex<Option<Session>>,
    db: Db,
    /// Those with metrics of their own.
    tenants: Vec<String>,
    manager: ServiceManager,
}

impl Watched {
    /// A host that begins.
    pub fn new(db: Db, config: &Config) -> Arc<Self> {
        let (phase, _) = watch::channel(Phase::Starting);
        let mut tenants = config.tenants.clone();
        tenants.sort();
        tenants.dedup();
        let manager = ServiceManager::of_environment();
        manager.notify(&format!("STATUS={}", Phase::Starting.words()));
        Arc::new(Watched {
            metrics: Metrics::default(),
            phase,
            sandbox: OnceLock::new(),
            session: Mutex::default(),
            db,
            tenants,
            manager,
        })
    }

    /// What the host does from now on.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
        self.manager.notify(&format!("READY=1\nSTATUS={}", phase.words()));
    }

    /// The host is about to end, once what is under way is finished.
    pub fn stop(&self) {
        self.manager.notify("STOPPING=1\nSTATUS=finishes what is under way");
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
        let asked = timeout(PATIENCE, self.ask(&mut session, &mut database_up)).await;
        let (processors, tenants) = match asked {
            Ok(Ok((processors, tenants))) => (Some(processors), tenants),
            Ok(Err(error)) => {
                tracing::debug!(error, "could not ask the database for metrics");
                (None, Vec::new())
            }
            Err(_) => (None, Vec::new()),
        };
        Some(Gauges {
            ready: self.phase() != Phase::Starting,
            log_lines_lost: telemetry::lines_lost(),
            sandbox: self.sandbox.get().map(|sandbox| of_sandbox(sandbox.usage())),
            database_up,
            processors,
            tenants,
        })
    }

    async fn ask(&self, kept: &mut Option<Session>, up: &mut bool) -> Result<Answer, String> {
        // One that failed, or was given up, is not used again.
        let session = match kept.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => self.db.connect("metrics").await.map_err(|error| describe(&error))?,
        };
        session.batch_execute(STATEMENT).await.map_err(|error| describe(&error))?;
        *up = true;
        let status = status::read(&session, 0).await.map_err(|error| describe(&error))?;
        let tenants = match self.tenants.as_slice() {
            [] => Vec::new(),
            tenants => sums(&session, tenants).await.map_err(|error| describe(&error))?,
        };
        *kept = Some(session);
        let processors = status.processors.into_iter().map(gauges).collect();
        Ok((processors, tenants.into_iter().map(of_tenant).collect()))
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<String> {
        let text = |status: StatusCode, text: &str| with(status, "text/plain; charset=utf-8", format!("{text}\n"));
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood");
        }
        match path {
            "/livez" => text(StatusCode::OK, "alive"),
            "/readyz" => match self.phase() {
                phase @ Phase::Starting => text(StatusCode::SERVICE_UNAVAILABLE, phase.words()),
                phase @ (Phase::StandingBy | Phase::Working) => text(StatusCode::OK, phase.words()),
            },
            "/metrics" => match self.gauges().await {
                Some(gauges) => with(StatusCode::OK, METRICS, self.metrics.show(&gauges)),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "another request is reading the metrics; try again"),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics"),
        }
    }
}

/// The database's answer: its processors, and the listed tenants.
type Answer = (Vec<ProcessorGauges>, Vec<TenantGauges>);

fn of_tenant(TenantSums { tenant, events, cpu_seconds, refusals, lanes }: TenantSums) -> TenantGauges {
    let [events, refusals] = [events, refusals].map(|sum| u64::try_from(sum).unwrap_or(0));
    TenantGauges { tenant, events, cpu_seconds, refusals, lanes: lanes.into() }
}

fn of_sandbox(usage: SandboxUsage) -> SandboxGauges {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_with_metrics_of_their_own_are_bounded_and_have_valid_names() {
        let check = |tenants: &[String]| Config { tenants: tenants.into() }.check();
        let many: Vec<String> = (0..=TENANTS).map(|number| format!("t{number}")).collect();
        assert_eq!(check(&many[1..]), Ok(()));
        let error = check(&many).unwrap_err();
        assert!(error.starts_with("metrics.tenants lists 101 tenants; list at most 100"), "{error}");
        let error = check(&["a b".into()]).unwrap_err();
        assert!(error.starts_with("metrics.tenants: `a b` is not a valid tenant name"), "{error}");
    }
}
