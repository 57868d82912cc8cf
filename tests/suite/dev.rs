//! `sandmill dev`: a folder in which somebody works on plugins, and other commands that are started there.

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

/// A folder to work in.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Started by root, the server is another user, who has to pass through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        Place { folder }
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

    async fn said(&self, arguments: &[&str]) -> String {
        stderr(&self.run(arguments).await)
    }

    /// Puts a component into the plugins folder.
    fn plug(&self, name: &str) {
        fs::create_dir_all(self.path("plugins")).unwrap();
        fs::copy(component(name), self.path(&format!("plugins/{name}.wasm"))).unwrap();
    }

    async fn append(&self, stream: &str, event_type: &str, data: &str) {
        let output = self.run(&["append", "--stream", stream, "--type", event_type, "--data", data]).await;
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// Waits until a document contains this.
    async fn shows(&self, collection: &str, wanted: &str) {
        until(&format!("a document of {collection} has {wanted}"), async || {
            stdout(&self.run(&["documents", collection]).await).contains(wanted)
        })
        .await;
    }

    /// Waits until `dev` suggests an event for a processor, and returns the command.
    async fn suggested(&self, processor: &str) -> String {
        let begin = format!("`{processor}` is running. Append an event that it handles:\n  ");
        eventually(&format!("an event is suggested for {processor}"), async || {
            let out = self.read("out");
            let (command, _) = out.rsplit_once(&begin)?.1.split_once('\n')?;
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

    async fn logs(&self, wanted: &str) {
        until(&format!("the log has {wanted}"), async || self.read("log").contains(wanted)).await;
    }
}

/// A `dev` that runs. It does not outlive its test.
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
async fn commands_in_its_folder_find_it_and_its_data_stay() {
    let place = Place::new();
    place.plug("cart-summary");
    let dev = place.dev(&[]).await;
    place.append("cart-1", "ItemAdded", MUG).await;
    place.shows("cart_summary", r#""total": 998"#).await;
    let suggested = place.suggested("cart-summary").await;
    assert!(suggested.ends_with(" append --stream cart-summary-1 --type CartAbandoned --data '{}'"), "{suggested}");
    assert_eq!(place.read(".sandmill/.gitignore"), "*\n");

    // One that is dropped there is taken, and one that is none is told with its reason and keeps nobody from running.
    place.plug("route-performance");
    place.logs("plugins: start route-performance").await;
    fs::write(place.path("plugins/broken.wasm"), "this is no component").unwrap();
    place.logs("bad magic number. Build one with").await;
    let flight = r#"{"origin":"JFK","destination":"LAX","distance":2475,"departureDelay":4,"arrivalDelay":-6}"#;
    place.append("plane-1", "FlightFlown", flight).await;
    place.shows("route_performance", r#""distance": 2475"#).await;

    assert_eq!(dev.end(Signal::INT).await.code(), Some(0), "{}", place.read("log"));
    let nobody = place.said(&["status"]).await;
    assert!(nobody.contains("no database named") && nobody.contains("`sandmill dev` in this folder"), "{nobody}");

    let dev = place.dev(&[]).await;
    place.shows("cart_summary", r#""total": 998"#).await;
    place.append("cart-1", "ItemAdded", MUG).await;
    place.shows("cart_summary", r#""total": 1996"#).await;

    // Killed, it leaves an address that leads nowhere, and the next one starts all the same.
    dev.end(Signal::KILL).await;
    let stale = place.run(&["documents", "cart_summary"]).await;
    assert_eq!(stale.status.code(), Some(1));
    assert!(stderr(&stale).contains("`sandmill dev` is not running in "), "{}", stderr(&stale));
    // Its server ends a moment after it.
    until("the server is gone", async || !place.path(".sandmill/data/postmaster.pid").exists()).await;
    let dev = place.dev(&[]).await;
    place.shows("cart_summary", r#""total": 1996"#).await;
    assert_eq!(dev.end(Signal::TERM).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_is_waited_for() {
    let place = Place::new();
    let data = place.path("kept");
    let dev = place.dev(&["--plugins", "plugins", "--data", data.to_str().unwrap()]).await;
    assert!(place.read("out").contains("There is no plugin in plugins yet"), "{}", place.read("out"));
    assert!(place.read("out").contains("plugin build my-plugin -o plugins/"), "{}", place.read("out"));
    assert!(data.join("PG_VERSION").is_file() && !place.path(".sandmill/data").exists());
    place.append("cart-1", "ItemAdded", MUG).await;

    // Nothing but what cannot run: it says so, and waits on.
    fs::write(place.path("plugins/broken.wasm"), "this is no component").unwrap();
    place.logs("refused: not a WebAssembly component").await;
    fs::remove_file(place.path("plugins/broken.wasm")).unwrap();
    place.plug("cart-summary");
    place.shows("cart_summary", r#""total": 998"#).await;
    fs::remove_file(place.path("plugins/cart-summary.wasm")).unwrap();
    place.logs("plugins: stop cart-summary").await;

    let mut twin = place.command(&["dev"]);
    let twin = tokio::task::spawn_blocking(move || twin.output()).await.unwrap().unwrap();
    assert_eq!(twin.status.code(), Some(1));
    assert!(stderr(&twin).contains("`sandmill dev` runs in this folder already"), "{}", stderr(&twin));
    assert_eq!(dev.end(Signal::INT).await.code(), Some(0), "{}", place.read("log"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_built_again_tries_the_lanes_that_it_had_blocked() {
    let place = Place::new();
    place.plug("scripted");
    let dev = place.dev(&[]).await;
    place.append("s", "A", r#"{"do":"trap"}"#).await;
    place.logs("the lane is blocked").await;
    // It is the same code, and so is what becomes of the lane.
    place.plug("scripted");
    place.logs("blocked lanes try again").await;
    until("the lane is blocked again", async || place.read("log").matches("the lane is blocked").count() == 2).await;
    assert_eq!(dev.end(Signal::INT).await.code(), Some(0), "{}", place.read("log"));

    let file = place.said(&["dev", "--plugins", "../plugins/scripted.wasm"]).await;
    assert!(file.contains("scripted.wasm is a file; name the folder that it lies in"), "{file}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_named_is_used() {
    let place = Place::new();
    place.plug("cart-summary");
    let database = sandmill_tests::empty_database().await;
    let refused = place.said(&["dev", "--data", "kept", "--database-url", &database.address]).await;
    assert!(refused.contains("--data is for a private database"), "{refused}");

    let mut command = place.command(&["dev", "--database-url", &database.address]);
    let dev = Dev { child: command.stdout(fs::File::create(place.path("out")).unwrap()).spawn().unwrap() };
    until("the tables are there", async || {
        let status = place.run(&["status", "--database-url", &database.address]).await;
        stdout(&status).contains("cart-summary")
    })
    .await;
    assert!(!place.path(".sandmill").exists());
    assert_eq!(dev.end(Signal::INT).await.code(), Some(0));
}

/// A suggestion runs when it is copied into a shell.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_suggested_for_each_plugin_that_runs() {
    let place = Place::new();
    place.plug("cart-summary");
    let events = [
        r#"{"tenant":"acme","stream":"cart-1","type":"CartOpened","data":{}}"#,
        r#"{"tenant":"acme","stream":"Ann's cart","type":"ItemAdded","data":{"sku":"mug","quantity":2,"price":499}}"#,
    ];
    fs::write(place.path("events.ndjson"), events.join("\n")).unwrap();
    let dev = place.dev(&[]).await;
    let suggested = place.suggested("cart-summary").await;
    assert!(
        suggested.contains(r" append --tenant acme --stream 'Ann'\''s cart' --type ItemAdded --data '{"),
        "{suggested}"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &suggested]).current_dir(place.path("below")).env_remove("DATABASE_URL");
    let ran = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
    assert!(ran.status.success(), "{suggested}: {}", stderr(&ran));
    place.shows("cart_summary", r#""total": 998"#).await;

    // A plugin that starts later, without a sample of its events.
    place.plug("route-performance");
    let suggested = place.suggested("route-performance").await;
    assert!(
        suggested.ends_with(" append --stream route-performance-1 --type FlightCancelled --data '{}'"),
        "{suggested}"
    );
    assert_eq!(place.read("out").matches("Append an event").count(), 2, "{}", place.read("out"));
    assert_eq!(dev.end(Signal::INT).await.code(), Some(0), "{}", place.read("log"));
}
