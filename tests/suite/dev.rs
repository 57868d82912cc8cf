// `sandmill dev`: the private database, reloading of plugins, suggestions, and other commands
// started in the same folder.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output},
};

use rustix::process::{Pid, Signal, kill_process};
use sandmill_tests::{
    host::{component, eventually, sandmill, stderr, stdout},
    until,
};

/// The folder in which `dev` runs.
struct Workspace {
    folder: tempfile::TempDir,
}

impl Workspace {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // If root starts it, the server runs as another user, who must be able to enter.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        Workspace { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sandmill("");
        command.env_remove("DATABASE_URL").current_dir(self.folder.path()).args(arguments);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.current_dir(self.path("below"));
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    async fn stderr_of(&self, arguments: &[&str]) -> String {
        stderr(&self.run(arguments).await)
    }

    /// Puts a component into the plugins folder.
    fn install(&self, name: &str) {
        fs::create_dir_all(self.path("plugins")).unwrap();
        fs::copy(component(name), self.path(&format!("plugins/{name}.wasm"))).unwrap();
    }

    async fn append(&self, stream: &str, event_type: &str, data: &str) {
        let output = self.run(&["append", "--stream", stream, "--type", event_type, "--data", data]).await;
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// Waits until a document contains a text.
    async fn until_document(&self, collection: &str, wanted: &str) {
        until(&format!("a document of {collection} has {wanted}"), async || {
            stdout(&self.run(&["documents", collection]).await).contains(wanted)
        })
        .await;
    }

    /// Waits until `dev` suggests an event for a processor, and returns the command.
    async fn suggestion(&self, processor: &str) -> String {
        let prefix = format!("`{processor}` is running. Append an event that it handles:\n  ");
        eventually(&format!("an event is suggested for {processor}"), async || {
            let out = self.read("out");
            let (command, _) = out.rsplit_once(&prefix)?.1.split_once('\n')?;
            Some(command.to_owned())
        })
        .await
    }

    /// Starts `dev`, and waits until other commands find it.
    async fn dev(&self, arguments: &[&str]) -> Dev {
        let file = |name: &str| fs::File::create(self.path(name)).unwrap();
        let mut command = self.command(&["dev"]);
        command.args(arguments).env("SANDMILL_LOG", "info").stdout(file("out")).stderr(file("log"));
        let mut dev = Dev { child: command.spawn().unwrap() };
        until("dev runs", async || {
            let gone = dev.child.try_wait().unwrap();
            assert!(gone.is_none(), "{gone:?}: {}", self.read("log"));
            self.run(&["status"]).await.status.success()
        })
        .await;
        dev
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    async fn until_logged(&self, wanted: &str) {
        until(&format!("the log has {wanted}"), async || self.read("log").contains(wanted)).await;
    }
}

/// A running `dev`, killed at the end of the test.
struct Dev {
    child: Child,
}

impl Dev {
    async fn end(mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        eventually("dev is gone", async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const MUG: &str = r#"{"sku":"mug","quantity":2,"price":499}"#;

#[tokio::test(flavor = "multi_thread")]
async fn commands_in_the_folder_find_dev_and_its_data_survive_restarts() {
    let workspace = Workspace::new();
    workspace.install("cart-summary");
    let dev = workspace.dev(&[]).await;
    workspace.append("cart-1", "ItemAdded", MUG).await;
    workspace.until_document("cart_summary", r#""total": 998"#).await;
    let suggested = workspace.suggestion("cart-summary").await;
    assert!(suggested.ends_with(" append --stream cart-summary-1 --type ItemAdded --data '{}'"), "{suggested}");
    assert_eq!(workspace.read(".sandmill/.gitignore"), "*\n");

    // A new component is loaded. A broken one is reported, and the others keep running.
    workspace.install("route-performance");
    workspace.until_logged("plugins: start route-performance").await;
    fs::write(workspace.path("plugins/broken.wasm"), "this is no component").unwrap();
    workspace.until_logged("bad magic number. Build one with").await;
    let flight = r#"{"origin":"JFK","destination":"LAX","distance":2475,"departureDelay":4,"arrivalDelay":-6}"#;
    workspace.append("plane-1", "FlightFlown", flight).await;
    workspace.until_document("route_performance", r#""distance": 2475"#).await;

    assert_eq!(dev.end(Signal::INT).await.code(), Some(0), "{}", workspace.read("log"));
    let without_dev = workspace.stderr_of(&["status"]).await;
    assert!(
        without_dev.contains("no database is configured") && without_dev.contains("`sandmill dev` in this folder"),
        "{without_dev}"
    );

    let dev = workspace.dev(&[]).await;
    workspace.until_document("cart_summary", r#""total": 998"#).await;
    workspace.append("cart-1", "ItemAdded", MUG).await;
    workspace.until_document("cart_summary", r#""total": 1996"#).await;

    // A killed `dev` leaves a stale address. Commands report it, and the next `dev`
    // starts anyway.
    dev.end(Signal::KILL).await;
    let stale = workspace.run(&["documents", "cart_summary"]).await;
    assert_eq!(stale.status.code(), Some(1));
    assert!(stderr(&stale).contains("`sandmill dev` is not running in "), "{}", stderr(&stale));
    // The server ends shortly after `dev`.
    until("the server is gone", async || !workspace.path(".sandmill/data/postmaster.pid").exists()).await;
    let dev = workspace.dev(&[]).await;
    workspace.until_document("cart_summary", r#""total": 1996"#).await;
    assert_eq!(dev.end(Signal::TERM).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_starts_in_an_empty_folder_and_waits_for_plugins() {
    let workspace = Workspace::new();
    let data = workspace.path("kept");
    let dev = workspace.dev(&["--plugins", "plugins", "--data", data.to_str().unwrap()]).await;
    assert!(workspace.read("out").contains("There is no plugin in plugins yet"), "{}", workspace.read("out"));
    assert!(workspace.read("out").contains("plugin build my-plugin -o plugins/"), "{}", workspace.read("out"));
    assert!(data.join("PG_VERSION").is_file() && !workspace.path(".sandmill/data").exists());
    workspace.append("cart-1", "ItemAdded", MUG).await;

    // A folder with only a broken component is reported, and `dev` keeps waiting.
    fs::write(workspace.path("plugins/broken.wasm"), "this is no component").unwrap();
    workspace.until_logged("rejected: not a WebAssembly component").await;
    fs::remove_file(workspace.path("plugins/broken.wasm")).unwrap();
    workspace.install("cart-summary");
    workspace.until_document("cart_summary", r#""total": 998"#).await;
    fs::remove_file(workspace.path("plugins/cart-summary.wasm")).unwrap();
    workspace.until_logged("plugins: stop cart-summary").await;

    let mut second = workspace.command(&["dev"]);
    let second = tokio::task::spawn_blocking(move || second.output()).await.unwrap().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("`sandmill dev` is already running in this folder"), "{}", stderr(&second));
    assert_eq!(dev.end(Signal::INT).await.code(), Some(0), "{}", workspace.read("log"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_plugin_retries_its_blocked_lanes() {
    let workspace = Workspace::new();
    workspace.install("scripted");
    let dev = workspace.dev(&[]).await;
    workspace.append("s", "A", r#"{"do":"trap"}"#).await;
    workspace.until_logged("the lane is blocked").await;
    // The code is the same, so the lane blocks again.
    workspace.install("scripted");
    workspace.until_logged("blocked lanes try again").await;
    until("the lane is blocked again", async || workspace.read("log").matches("the lane is blocked").count() == 2)
        .await;
    assert_eq!(dev.end(Signal::INT).await.code(), Some(0), "{}", workspace.read("log"));

    let errors = workspace.stderr_of(&["dev", "--plugins", "../plugins/scripted.wasm"]).await;
    assert!(errors.contains("scripted.wasm is a file; pass the folder that contains it"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_database_is_used_instead_of_a_private_one() {
    let workspace = Workspace::new();
    workspace.install("cart-summary");
    let database = sandmill_tests::empty_database().await;
    let refused = workspace.stderr_of(&["dev", "--data", "kept", "--database-url", &database.address]).await;
    assert!(refused.contains("--data is for a private database"), "{refused}");

    let mut command = workspace.command(&["dev", "--database-url", &database.address]);
    let dev = Dev { child: command.stdout(fs::File::create(workspace.path("out")).unwrap()).spawn().unwrap() };
    until("the plugin runs", async || {
        let status = workspace.run(&["status", "--database-url", &database.address]).await;
        stdout(&status).contains("cart-summary")
    })
    .await;
    assert!(!workspace.path(".sandmill").exists());
    assert_eq!(dev.end(Signal::INT).await.code(), Some(0));
}

/// A suggestion can be copied into a shell.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_suggested_for_each_running_plugin() {
    let workspace = Workspace::new();
    workspace.install("cart-summary");
    let events = [
        r#"{"tenant":"acme","stream":"cart-1","type":"CartOpened","data":{}}"#,
        r#"{"tenant":"acme","stream":"Ann's cart","type":"ItemAdded","data":{"sku":"mug","quantity":2,"price":499}}"#,
    ];
    fs::write(workspace.path("events.ndjson"), events.join("\n")).unwrap();
    let dev = workspace.dev(&[]).await;
    let suggested = workspace.suggestion("cart-summary").await;
    assert!(
        suggested.contains(r" append --tenant acme --stream 'Ann'\''s cart' --type ItemAdded --data '{"),
        "{suggested}"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &suggested]).current_dir(workspace.path("below")).env_remove("DATABASE_URL");
    let ran = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
    assert!(ran.status.success(), "{suggested}: {}", stderr(&ran));
    workspace.until_document("cart_summary", r#""total": 998"#).await;

    // A plugin that starts later and has no sample: the first event type of its descriptor.
    workspace.install("route-performance");
    let suggested = workspace.suggestion("route-performance").await;
    assert!(suggested.ends_with(" append --stream route-performance-1 --type FlightFlown --data '{}'"), "{suggested}");
    assert_eq!(workspace.read("out").matches("Append an event").count(), 2, "{}", workspace.read("out"));
    assert_eq!(dev.end(Signal::INT).await.code(), Some(0), "{}", workspace.read("log"));
}
