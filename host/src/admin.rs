//! The HTTP endpoint for monitoring: `/livez`, `/readyz` and `/metrics`.
//!
//! It answers during the whole life of the process, even while the host waits for its database. The
//! number of connections and the duration of each are bounded, so clients cannot slow the host.
//! Responses contain numbers, processor ids and the tenants that the operator has listed. The id of
//! a tenant's own processor includes the tenant's name. No other tenant is named, and no event. The
//! phases of the host are also reported to a service manager ([`systemd`]).

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

/// Maximum number of concurrent connections. 64: a few monitors with one or two each, and room for
/// idle ones.
const CONNECTIONS: usize = 64;
/// Maximum time for a client to send its request. 2 s: a monitor sends it at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Bounds the database's time for computing the metrics, which every request repeats.
const STATEMENT: &str = "set statement_timeout = '4s'";
/// Maximum wait for the database. 5 s: longer than the time limit of the statements, which reports
/// the error.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);
/// The OpenMetrics text format, which Prometheus reads.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Maximum number of tenants with metrics. 100: each has seven series.
const TENANTS: usize = 100;

/// The settings of metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Tenants with their own series on `/metrics`: handled events, guest CPU time, refusals, and
    /// lanes behind by state. Default: none, because readers of the metrics learn the names. At
    /// most 100.
    pub tenants: Vec<String>,
}

impl Config {
    /// Checks the number and the names of the tenants.
    pub fn check(&self) -> Result<(), String> {
        if self.tenants.len() > TENANTS {
            let listed = self.tenants.len();
            return Err(format!(
                "metrics.tenants lists {listed} tenants; list at most {TENANTS}. `sandmill tenants` shows all tenants"
            ));
        }
        self.tenants.iter().try_for_each(|name| match TenantId::parse(name) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("metrics.tenants: {error}")),
        })
    }
}

/// The phase of a host's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPhase {
    /// The host waits for its database, or prepares it.
    Starting,
    /// The host waits to take over from another host.
    StandingBy,
    /// The host runs processors.
    Running,
}

impl HostPhase {
    fn text(self) -> &'static str {
        match self {
            HostPhase::Starting => "waiting for the database",
            HostPhase::StandingBy => "standing by",
            HostPhase::Running => "running",
        }
    }
}

/// The state of a host for monitoring. Kept even if no address serves it.
pub struct HostMonitor {
    /// The host's counters.
    pub metrics: Metrics,
    phase: watch::Sender<HostPhase>,
    sandbox: OnceLock<Sandbox>,
    session: Mutex<Option<Session>>,
    db: Db,
    /// The tenants with their own metrics.
    tenants: Vec<String>,
    manager: ServiceManager,
}

impl HostMonitor {
    /// A monitor for a host that is starting.
    pub fn new(db: Db, config: &Config) -> Arc<Self> {
        let (phase, _) = watch::channel(HostPhase::Starting);
        let mut tenants = config.tenants.clone();
        tenants.sort();
        tenants.dedup();
        let manager = ServiceManager::of_environment();
        manager.notify(&format!("STATUS={}", HostPhase::Starting.text()));
        Arc::new(HostMonitor {
            metrics: Metrics::default(),
            phase,
            sandbox: OnceLock::new(),
            session: Mutex::default(),
            db,
            tenants,
            manager,
        })
    }

    /// Enters a phase, and reports it.
    pub fn enter(&self, phase: HostPhase) {
        self.phase.send_replace(phase);
        self.manager.notify(&format!("READY=1\nSTATUS={}", phase.text()));
    }

    /// Reports that the host finishes the work in progress and then ends.
    pub fn stop(&self) {
        self.manager.notify("STOPPING=1\nSTATUS=finishing the work in progress");
    }

    /// Sets the sandbox whose usage the metrics show.
    pub fn set_sandbox(&self, sandbox: Sandbox) {
        self.sandbox.get_or_init(|| sandbox);
    }

    fn phase(&self) -> HostPhase {
        *self.phase.borrow()
    }

    /// The current gauges; none if another request is reading them.
    async fn gauges(&self) -> Option<Gauges> {
        let mut session = self.session.try_lock().ok()?;
        let mut database_up = false;
        let read = timeout(DATABASE_TIMEOUT, self.read_database(&mut session, &mut database_up)).await;
        let (processors, tenants) = match read {
            Ok(Ok((processors, tenants))) => (Some(processors), tenants),
            Ok(Err(error)) => {
                tracing::debug!(error, "could not read metrics from the database");
                (None, Vec::new())
            }
            Err(_) => (None, Vec::new()),
        };
        Some(Gauges {
            ready: self.phase() != HostPhase::Starting,
            log_lines_lost: telemetry::lines_lost(),
            sandbox: self.sandbox.get().map(|sandbox| of_sandbox(sandbox.usage())),
            database_up,
            processors,
            tenants,
        })
    }

    /// Reads the gauges of processors and listed tenants. Keeps the session for the next request if
    /// all statements succeed, and sets `up` once the database has answered.
    async fn read_database(&self, kept: &mut Option<Session>, up: &mut bool) -> Result<DatabaseGauges, String> {
        // A session that failed, or whose request timed out, is not reused.
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

    /// Answers one request.
    async fn respond(&self, method: &Method, path: &str) -> Response<String> {
        let text = |status: StatusCode, text: &str| with(status, "text/plain; charset=utf-8", format!("{text}\n"));
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are supported");
        }
        match path {
            "/livez" => text(StatusCode::OK, "alive"),
            "/readyz" => match self.phase() {
                phase @ HostPhase::Starting => text(StatusCode::SERVICE_UNAVAILABLE, phase.text()),
                phase @ (HostPhase::StandingBy | HostPhase::Running) => text(StatusCode::OK, phase.text()),
            },
            "/metrics" => match self.gauges().await {
                Some(gauges) => with(StatusCode::OK, METRICS, self.metrics.show(&gauges)),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "another request is reading the metrics; try again"),
            },
            _ => text(StatusCode::NOT_FOUND, "not found; this server has /livez, /readyz and /metrics"),
        }
    }
}

/// The gauges of processors and listed tenants.
type DatabaseGauges = (Vec<ProcessorGauges>, Vec<TenantGauges>);

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

/// The gauges of a processor.
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
        parked_streams: p.parked_streams,
        paused: p.paused.is_some(),
    }
}

fn with(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The HTTP server. Dropping it ends it.
pub struct MonitoringServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl MonitoringServer {
    /// Starts the server at an address such as `127.0.0.1:9464`; port 0 chooses a free port.
    pub async fn start(address: &str, monitor: Arc<HostMonitor>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!(
                "cannot listen at {address}; choose another address with --listen, or with `listen` in the settings"
            )
        })?;
        let address = listener.local_addr()?;
        Ok(MonitoringServer { address, task: tokio::spawn(listen(listener, monitor)) })
    }

    /// The address at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MonitoringServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections, each served by a task of its own.
async fn listen(listener: TcpListener, monitor: Arc<HostMonitor>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let monitor = monitor.clone();
                tokio::spawn(async move {
                    // A client that disconnects or sends nothing is not an error.
                    let _ = serve(stream, monitor).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection until it is closed or its time is over.
async fn serve(stream: TcpStream, monitor: Arc<HostMonitor>) -> io::Result<()> {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let monitor = monitor.clone();
        async move { Ok::<_, Infallible>(monitor.respond(request.method(), request.uri().path()).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT).keep_alive(false);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    // Also limits a client that does not read its response.
    timeout(DATABASE_TIMEOUT * 3, connection).await.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_or_invalid_tenants_are_rejected() {
        let check = |tenants: &[String]| Config { tenants: tenants.into() }.check();
        let many: Vec<String> = (0..=TENANTS).map(|number| format!("t{number}")).collect();
        assert_eq!(check(&many[1..]), Ok(()));
        let error = check(&many).unwrap_err();
        assert!(error.starts_with("metrics.tenants lists 101 tenants; list at most 100"), "{error}");
        let error = check(&["a b".into()]).unwrap_err();
        assert!(error.starts_with("metrics.tenants: `a b` is not a valid tenant name"), "{error}");
    }
}
