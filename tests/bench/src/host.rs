//! The host under measurement: with handlers in this process, or as the process that users start.

use std::{
    future::pending,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use sandmill::{
    app::{self, Ended, Until},
    config::Config,
    model::{handler::Handler, spec::ProcessorSpec},
    plugins::{
        manifest::Manifest,
        registry::{Provenance, RunnableVersion},
    },
    sandbox::Sandbox,
};

use crate::{
    machine,
    report::Report,
    world::{Database, World},
};

/// A plugin as a version in this process. It owns its sandbox.
pub fn plugin(world: &World, name: &str) -> anyhow::Result<RunnableVersion> {
    let file = world.plugin(name)?;
    let config = world.config(Path::new(""))?;
    let sandbox = Sandbox::new(config.limits, config.compile)?;
    let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let plugin = tokio::task::block_in_place(|| sandbox.load(&bytes))?;
    let (spec, digest) = (ProcessorSpec::new(plugin.descriptor().clone(), None), plugin.digest().to_string());
    let manifest = Manifest::default();
    Ok(RunnableVersion {
        spec,
        plugin: name.into(),
        digest,
        handler: Arc::new(plugin),
        manifest,
        provenance: Provenance::default(),
    })
}

/// A version of the same processor with another handler.
pub fn instead(version: &RunnableVersion, handler: Arc<dyn Handler>) -> RunnableVersion {
    RunnableVersion::native(version.spec.clone(), handler)
}

/// Lets a version handle all events. Returns the seconds from its first session to its last.
pub async fn catch_up(config: &Config, database: &Database, version: &RunnableVersion) -> anyhow::Result<f64> {
    database.reset().await?;
    let version = instead(version, version.handler.clone());
    let began = Instant::now();
    let ended = app::run_handlers(config, &database.db, vec![version], Until::CaughtUp, pending(), pending()).await?;
    anyhow::ensure!(matches!(ended, Ended::CaughtUp { .. }), "it did not catch up: {ended:?}");
    Ok(began.elapsed().as_secs_f64())
}

/// The measurements of one binary, round by round.
#[derive(Clone, Default)]
struct Runs {
    rates: Vec<f64>,
    peaks: Vec<f64>,
    statements: Vec<f64>,
}

/// Measures a plugin as users run it, including the start: events per second, the host's memory,
/// and the number of statements. Binaries take turns.
pub async fn compare_binaries(
    world: &World,
    database: &Database,
    plugin: &str,
    (part, what): (&'static str, &str),
    report: &mut Report,
) -> anyhow::Result<()> {
    let (folders, events) = (world.folders(plugin)?, database.events().await?);
    let mut runs = vec![Runs::default(); world.binaries.len()];
    // The first run of a binary compiles, and is not measured.
    for round in 0..=world.rounds {
        for turn in 0..world.binaries.len() {
            // The order rotates, because each run is affected by the state that the previous one
            // left.
            let which = (turn + round) % world.binaries.len();
            database.reset().await?;
            let began = Instant::now();
            let process = Process::start(&world.binaries[which], database, &folders[which], &["--until-caught-up"])?;
            let Used { peak, .. } = process.wait().await?;
            let seconds = began.elapsed().as_secs_f64();
            if round > 0 {
                let (all, pages) = database.statements().await?;
                runs[which].rates.push(events / seconds);
                runs[which].peaks.push(peak);
                runs[which].statements.push(all / pages.max(1.0));
            }
        }
    }
    for (Runs { rates, peaks, statements }, against) in runs.into_iter().zip(["", ", compared with"]) {
        report.add(part, format!("{what}{against}"), "events/s", rates);
        report.add(part, format!("{what}{against}: peak memory"), "MiB", peaks);
        report.add(part, format!("{what}{against}: statements a page"), "", statements);
    }
    Ok(())
}

/// What a host used until its end.
#[derive(Default)]
pub struct Used {
    /// Peak memory, MiB.
    pub peak: f64,
    /// The same without pages that instances share.
    pub unshared_peak: f64,
    /// CPU time, seconds.
    pub cpu: f64,
}

/// A host in its own process, which is killed when this is dropped.
pub struct Process(Child);

impl Process {
    /// Starts a host on a folder of plugins.
    pub fn start(binary: &Path, database: &Database, folder: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(Self::command(binary, &database.address, folder, arguments).env("SANDMILL_LOG", "warn"))
    }

    /// Starts a host with another address, and with the default log level to a file, so that the
    /// cost of logging is included.
    pub fn start_talking(
        binary: &Path,
        address: &str,
        folder: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let log = std::fs::File::create(log).with_context(|| format!("write {}", log.display()))?;
        Self::spawn(Self::command(binary, address, folder, arguments).env("SANDMILL_LOG", "info").stderr(log))
    }

    fn command(binary: &Path, address: &str, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command
            .args(["run", "--plugins"])
            .arg(folder)
            .args(arguments)
            .env("DATABASE_URL", address)
            .stdin(Stdio::null());
        command
    }

    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let started = command.spawn();
        Ok(Process(started.with_context(|| format!("start {}", command.get_program().display()))?))
    }

    /// Asks the host to stop in order, and waits for its end.
    pub async fn end(self) -> anyhow::Result<()> {
        // The standard library can send only SIGKILL.
        let asked = Command::new("kill").arg(self.0.id().to_string()).status().context("ask the host to end")?;
        anyhow::ensure!(asked.success(), "the host could not be asked to end: {asked}");
        self.wait().await.map(drop)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until the host ends successfully.
    pub async fn wait(mut self) -> anyhow::Result<Used> {
        let mut used = Used::default();
        loop {
            let id = self.0.id();
            used.peak = machine::peak_memory(id).unwrap_or(used.peak);
            used.unshared_peak = machine::unshared_memory(id).unwrap_or(0.0).max(used.unshared_peak);
            // A process that has ended counts zero until its status is read.
            used.cpu = machine::cpu_seconds(id).unwrap_or(0.0).max(used.cpu);
            if let Some(status) = self.0.try_wait()? {
                anyhow::ensure!(status.success(), "the host ended with {status}");
                return Ok(used);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Its peak memory, MiB.
    pub fn peak_memory(&self) -> f64 {
        machine::peak_memory(self.0.id()).unwrap_or(f64::NAN)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
