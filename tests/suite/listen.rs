// The HTTP endpoint for monitoring (`run --listen`), and notifications to a service manager.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as Name, UnixDatagram},
    },
    process::{Child, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use sandmill_tests::{
    database,
    host::{eventually, plugins, sandmill},
};
use serde_json::json;

/// A host in its own process, killed when it is dropped.
struct MonitoredHost {
    child: Child,
    address: SocketAddr,
}

impl Drop for MonitoredHost {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl MonitoredHost {
    fn start(database: &str, folder: &std::path::Path) -> Self {
        MonitoredHost::start_with(database, folder, &[])
    }

    fn start_with(database: &str, folder: &std::path::Path, settings: &[&str]) -> Self {
        let address = free_address();
        let mut command = sandmill(database);
        command.args(["run", "--listen", &address.to_string(), "--plugins"]).arg(folder).stderr(Stdio::null());
        settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
        MonitoredHost { child: command.spawn().unwrap(), address }
    }

    /// The status and the body of a response; none if nothing listens.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    fn request(&self, request: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
    }

    async fn until(&self, what: &str, path: &str, holds: impl Fn(u16, &str) -> bool) -> String {
        eventually(what, async || self.get(path).filter(|(status, body)| holds(*status, body)).map(|(_, body)| body))
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_serves_probes_and_metrics() {
    let database = database().await;
    database.append("acme", "s", &vec![json!({}); 5]).await;
    database.append("bad", "s", &[json!({"do": "trap"})]).await;
    let folder = plugins(&["scripted"]);
    let host = MonitoredHost::start(&database.address, folder.path());
    host.until("it is ready", "/readyz", |status, body| status == 200 && body == "running\n").await;
    assert_eq!(host.get("/livez"), Some((200, "alive\n".into())));
    let handled = "sandmill_events_handled_total{processor=\"scripted\"} 5";
    let blocked = "sandmill_lanes_behind{processor=\"scripted\",state=\"blocked\"} 1";
    // Lag and lanes are not read at the same moment.
    let lag = "sandmill_lag_events{processor=\"scripted\"} 1";
    let all = |_: u16, body: &str| [handled, blocked, lag].iter().all(|line| body.contains(line));
    let text = host.until("it has counted everything", "/metrics", all).await;
    for line in [
        "# TYPE sandmill_events_handled counter",
        "# TYPE sandmill_commit_seconds histogram",
        "# UNIT sandmill_commit_seconds seconds",
        "sandmill_plugin_changes_total{event=\"started\"} 1",
        "sandmill_refusals_total{reason=\"trap\"}",
        "sandmill_instances{state=\"idle\"}",
        "sandmill_database_up 1",
        "sandmill_ready 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(!text.contains("acme"), "the metrics name a tenant: {text}");

    // Invalid requests get a response, and silent clients block nobody.
    assert_eq!(host.get("/").map(|(status, _)| status), Some(404));
    assert_eq!(
        host.request("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").map(|(status, _)| status),
        Some(405)
    );
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(host.address).unwrap()).collect();
    host.until("silent clients time out", "/livez", |status, _| status == 200).await;
    drop(silent);
}

/// Metrics name only the tenants that an operator has listed.
#[tokio::test(flavor = "multi_thread")]
async fn only_listed_tenants_have_metrics() {
    let database = database().await;
    database.append("acme", "s", &vec![json!({}); 5]).await;
    database.append("bad", "s", &[json!({"do": "trap"})]).await;
    database.append("other", "s", &[json!({})]).await;
    let folder = plugins(&["scripted"]);
    let settings = ["metrics.tenants=acme,bad,nobody", "limits.cpu-ms=10000", "limits.wall-ms=120000"];
    let host = MonitoredHost::start_with(&database.address, folder.path(), &settings);
    let wanted = [
        "sandmill_tenant_events_handled_total{tenant=\"acme\"} 5\n",
        "sandmill_tenant_events_handled_total{tenant=\"nobody\"} 0\n",
        "sandmill_tenant_lanes_behind{tenant=\"acme\",state=\"blocked\"} 0\n",
        "sandmill_tenant_lanes_behind{tenant=\"bad\",state=\"blocked\"} 1\n",
        "sandmill_tenant_refusals_total{tenant=\"bad\"} ",
        "sandmill_tenant_guest_cpu_seconds_total{tenant=\"acme\"} 0.",
    ];
    // The usage of tenants is stored periodically.
    let all = |_: u16, body: &str| wanted.iter().all(|line| body.contains(line));
    let text = host.until("the tenants' numbers are there", "/metrics", all).await;
    assert!(!text.contains("other"), "{text}");
    assert!(!text.contains("sandmill_tenant_refusals_total{tenant=\"bad\"} 0\n"), "{text}");
}

/// The notifications of a service manager such as systemd, over the socket that it names.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_notified_of_each_phase() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let name = format!("sandmill-test-{}", std::process::id());
    let sockets = [
        (path.display().to_string(), UnixDatagram::bind(&path).unwrap()),
        (format!("@{name}"), UnixDatagram::bind_addr(&Name::from_abstract_name(&name).unwrap()).unwrap()),
    ];
    for (address, socket) in sockets {
        let started = |arguments: &[&str]| {
            let mut command = sandmill(&database.address);
            command.env("NOTIFY_SOCKET", &address).arg("run").args(arguments).arg("--plugins").arg(folder.path());
            command.stderr(Stdio::null()).spawn().unwrap()
        };
        let next_message = async || {
            let socket = socket.try_clone().unwrap();
            let receive = move || {
                let mut buffer = [0; 1_000];
                let bytes = socket.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..bytes].to_vec()).unwrap()
            };
            tokio::task::spawn_blocking(receive).await.unwrap()
        };
        let until_stopped = async |mut child: Child| {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            assert_eq!(next_message().await, "STOPPING=1\nSTATUS=finishing the work in progress");
            let ended = eventually("it has ended", async || child.try_wait().unwrap()).await;
            assert_eq!(ended.code(), Some(0));
        };
        let host = started(&[]);
        assert_eq!(next_message().await, "STATUS=waiting for the database");
        assert_eq!(next_message().await, "READY=1\nSTATUS=running");
        let other = started(&["--standby"]);
        assert_eq!(next_message().await, "STATUS=waiting for the database");
        assert_eq!(next_message().await, "READY=1\nSTATUS=standing by");
        until_stopped(host).await;
        assert_eq!(next_message().await, "READY=1\nSTATUS=running");
        until_stopped(other).await;
    }
    // A host runs even if nothing listens on the socket.
    let mut command = sandmill(&database.address);
    command.env("NOTIFY_SOCKET", place.path().join("nobody")).args(["run", "--until-caught-up", "--plugins"]);
    command.arg(folder.path());
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_waits_for_its_database_is_alive_but_not_ready() {
    let folder = plugins(&["scripted"]);
    let away = format!("host=127.0.0.1 port={} user=u dbname=d", free_address().port());
    let mut host = MonitoredHost::start(&away, folder.path());
    host.until("it is alive", "/livez", |status, _| status == 200).await;
    assert_eq!(host.get("/readyz"), Some((503, "waiting for the database\n".into())));
    let text = host.get("/metrics").unwrap().1;
    assert!(text.contains("sandmill_database_up 0") && text.contains("sandmill_ready 0"), "{text}");
    kill_process(Pid::from_child(&host.child), Signal::TERM).unwrap();
    let ended = eventually("it has ended", async || host.child.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(143), "like any command that a signal ends while it waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_reported() {
    let database = database().await;
    let folder = plugins(&["scripted"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = sandmill(&database.address);
    command.args(["run", "--listen", &taken.local_addr().unwrap().to_string(), "--plugins"]).arg(folder.path());
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(errors.contains("cannot listen at 127.0.0.1:") && errors.contains("--listen"), "{errors}");
}
