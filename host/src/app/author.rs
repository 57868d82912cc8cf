//! Checks and tests of a component, for `sandmill plugin check` and `sandmill plugin test`. They
//! use the sandbox that a host would use, without a host or a database.

use std::{
    fs::File,
    io::{BufReader, BufWriter, ErrorKind},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use anyhow::Context;
use tokio::{task::spawn_blocking, time::timeout};

use super::{CUT_OFF, StopCompiling};

use crate::{
    config::Config,
    model::spec::ProcessorSpec,
    plugins::manifest::Manifest,
    processor::{
        code::{CodeVersion, SwappableCode},
        lane::Runner,
    },
    rehearsal::{PluginTest, TestReport, lines},
    sandbox::{Sandbox, examine::Examination},
    scheduler::Scheduler,
    store::import::{ImportInput, events::FileEvents},
};

/// Loads a component as a host with these settings does, and reports what it finds. Returns none
/// if `interrupted` resolves first.
pub async fn check(
    config: &Config,
    file: &Path,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Option<Examination>> {
    let (sandbox, _) = sandbox(config, file)?;
    examine(&sandbox, file, interrupted).await
}

/// A sandbox with the limits and the settings that a host gives this file, including those of the
/// manifest beside it.
fn sandbox(config: &Config, file: &Path) -> anyhow::Result<(Sandbox, Manifest)> {
    let path = file.with_extension("toml");
    let manifest = match std::fs::read_to_string(&path) {
        Ok(text) => Manifest::parse(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Manifest::default()),
        Err(error) => Err(error.to_string()),
    };
    let limits = manifest.and_then(|manifest| Ok((manifest.limits(&config.limits, None)?, manifest)));
    let (limits, manifest) = limits.map_err(|problem| anyhow::anyhow!("its manifest {}: {problem}", path.display()))?;
    let sandbox = Sandbox::new(config.limits.clone(), config.compile.clone())?;
    Ok((sandbox.for_plugin(limits, manifest.settings.clone(), None), manifest))
}

/// Loads a component in the sandbox. Returns none if `interrupted` resolves first.
async fn examine(
    sandbox: &Sandbox,
    file: &Path,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Option<Examination>> {
    let compilers = StopCompiling(sandbox.clone());
    let examined = spawn_blocking({
        let (sandbox, file) = (sandbox.clone(), file.to_path_buf());
        move || sandbox.examine(&file)
    });
    let examined = tokio::select! {
        examined = examined => Some(examined?),
        () = interrupted => None,
    };
    drop(compilers);
    let _ = timeout(CUT_OFF, sandbox.wait_for_compilers()).await;
    Ok(examined)
}

/// The input of a plugin test.
#[derive(Debug)]
pub struct TestRequest {
    /// The component.
    pub file: PathBuf,
    /// Events, in the format of an import.
    pub events: PathBuf,
    /// The expected documents, if they are to be compared.
    pub expect: Option<PathBuf>,
    /// The file to write the resulting documents to, if any.
    pub write: Option<PathBuf>,
}

/// The outcome of a plugin test.
pub struct TestResult {
    /// The plugin's spec: its descriptor with its manifest applied.
    pub spec: ProcessorSpec,
    /// The findings of the test.
    pub report: TestReport,
    /// Lines of events that an import would leave out, because an earlier line has the same id.
    pub repeated: u64,
    /// Linear memory of its largest instance, bytes.
    pub largest_instance_bytes: usize,
}

/// Runs a plugin on the events of a file, in a host's sandbox and on its guest threads, with
/// documents in memory. Returns none if `interrupted` resolves first.
pub async fn test(
    config: &Config,
    request: &TestRequest,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Option<TestResult>> {
    let mut interrupted = pin!(interrupted);
    // Errors in the files are reported before anything runs.
    let expected = request.expect.as_deref().map(expected).transpose()?;
    let FileEvents { events, repeated } = tokio::task::block_in_place(|| events(&request.events))?;
    let (sandbox, manifest) = sandbox(config, &request.file)?;
    let Some(examined) = examine(&sandbox, &request.file, &mut interrupted).await? else { return Ok(None) };
    let plugin = Arc::new(examined.loaded.with_context(|| format!("{} does not run here", request.file.display()))?);
    let spec = manifest.apply_to(plugin.descriptor(), None);
    let version = CodeVersion::new(plugin.digest(), plugin.clone(), spec.max_batch_size).under_test();
    let code = SwappableCode::new(version);
    let scheduler = Scheduler::start(&config.scheduler).context("start the guest threads")?;
    let runner = Runner::new(&spec, Arc::new(code), scheduler);
    let test = PluginTest {
        spec: &spec,
        runner: &runner,
        page_events: config.processor.page_events,
        tenants_at_once: config.processor.lanes_at_once.min(sandbox.usage().max_live),
    };
    let ran = tokio::select! {
        ran = test.run(&events, expected.as_ref()) => ran,
        () = interrupted => return Ok(None),
    };
    let (report, documents) = ran.map_err(|lost| anyhow::anyhow!("{}", lost.0))?;
    if let Some(path) = &request.write {
        let written = File::create(path).and_then(|file| lines::write(&documents, BufWriter::new(file)));
        written.with_context(|| format!("write the documents to {}", path.display()))?;
    }
    let largest_instance_bytes = plugin.largest_instance_bytes();
    Ok(Some(TestResult { report, repeated, largest_instance_bytes, spec }))
}

fn events(path: &Path) -> anyhow::Result<FileEvents> {
    let name = || path.display().to_string();
    FileEvents::read(ImportInput::open(path).with_context(name)?).with_context(name)
}

fn expected(path: &Path) -> anyhow::Result<lines::NamedDocuments> {
    let name = || path.display().to_string();
    lines::read(BufReader::new(File::open(path).with_context(name)?)).with_context(name)
}
