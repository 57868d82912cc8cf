//! `sandmill demo`: a live demonstration on a private database.
//!
//! A shop with tenants of very different sizes appends events, and the plugins handle them. If a
//! file was imported first, the plugins catch up with its events at the same time. All numbers
//! shown are counted by the database. The demo fails unless every appended event is handled.

mod shop;

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep},
};

use super::{
    live::{Live, Title, fitted, grouped},
    output, program,
    signals::Signals,
};
use crate::{
    app::{self, Until},
    config::Config,
    db::{
        Db, Session,
        embedded::{Embedded, Options},
        migrate,
    },
    model::text,
    plugins::{folder, history},
    processor::status::{self, Status},
    projections::list::{self, Collection, ListedDocument, Selection},
    store::import::{ImportInput, import},
    telemetry::Logs,
};

/// Runs a live demo on a private database
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples, with the example plugins of a checkout (`make demo` builds them):
  sandmill demo --plugins target/demo/plugins
  sandmill demo --plugins target/demo/plugins --keep --rate 2000",
    after_help = "\
The demo appends the events of a shop with 45 tenants, and shows live how the plugins handle
them. The private server and its files are removed when the command ends."
)]
pub(super) struct DemoArgs {
    /// The folder with the plugins
    #[arg(long, value_name = "DIR")]
    plugins: PathBuf,
    /// Import events from this file first, in the format of `sandmill import`
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Keep the shop open for this many seconds; with 0 it stays closed, and only the imported
    /// events are handled
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    seconds: u32,
    /// Keep the shop open until Ctrl-C
    #[arg(long, conflicts_with = "seconds")]
    keep: bool,
    /// Append this many events per second
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
}

/// Documents to show per collection and tenant.
const SHOWN: i64 = 2;
/// Maximum wait until the processors start. 300 s: their plugins are compiled first, on a machine
/// that may be busy.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum wait until all events are handled after the shop has closed. 300 s: reached only on a
/// failure.
const END_TIMEOUT: Duration = Duration::from_secs(300);
/// Time between two checks during these waits.
const INTERVAL: Duration = Duration::from_millis(100);

/// Runs the command.
pub(super) async fn run(
    args: DemoArgs,
    mut config: Config,
    logs: &Logs,
    signals: &Signals,
) -> anyhow::Result<ExitCode> {
    logs.prefer_warnings();
    config.plugins.clone_from(&args.plugins);
    let prepared = tokio::select! {
        prepared = prepare(&args) => prepared?,
        () = signals.first() => return Ok(signals.exit_code()),
    };
    let (server, db, session, imported) = prepared;
    if args.keep || args.seconds > 0 {
        let open = if args.keep { "until Ctrl-C".into() } else { format!("for {} s", args.seconds) };
        output::print_line(&format!(
            "A shop with {} tenants, one of which has 60 % of all events, opens {open}.",
            shop::TENANTS
        ))?;
        output::print_line("Each tenant has its own sandbox and lane, so none waits for another.")?;
    }
    if args.keep {
        output::print_line(&format!(
            "In another terminal: {} status --watch --database-url '{}'",
            program(),
            server.address()
        ))?;
    }

    let (end, ended) = oneshot::channel();
    let ended = async {
        let _ = ended.await;
    };
    let host = app::run(&config, &db, Until::Stopped, ended, signals.second());
    let show = async {
        let shown = tokio::select! {
            begun = until_started(&session, &args.plugins) => {
                begun?;
                Some(show(&args, &db, &session, signals.first(), logs).await?)
            }
            () = signals.first() => None,
        };
        let _ = end.send(());
        Ok(shown)
    };
    let (_, shown) = Box::pin(async { tokio::try_join!(host, show) }).await?;
    let Some((live, appended)) = shown else { return Ok(signals.exit_code()) };
    let tenants = live.tenants();
    live.finish().await?;

    output::print_line(&format!(
        "\nThe shop appended {} events, and {} were imported before: all are handled.",
        grouped(appended),
        grouped(imported)
    ))?;
    documents(&session, &tenants).await?;
    next_steps(&args.plugins)?;
    Ok(ExitCode::SUCCESS)
}

/// A server with the tables and the imported events.
async fn prepare(args: &DemoArgs) -> anyhow::Result<(Embedded, Db, Session, u64)> {
    let server = Embedded::start(Options::default()).await?;
    output::print_line(&format!("A private PostgreSQL {} is running. It is removed at the end.", server.version()))?;
    let db = Db::parse(&server.address())?;
    let mut session = db.connect("demo").await?;
    migrate::migrate(&mut session).await?;
    let imported = match &args.events {
        Some(file) => import_all(&mut session, file).await?,
        None => 0,
    };
    Ok((server, db, session, imported))
}

/// Imports the events of a file, and returns their number.
async fn import_all(session: &mut Session, file: &Path) -> anyhow::Result<u64> {
    let input = ImportInput::open(file).with_context(|| format!("open {}", file.display()))?;
    let report = import(session, input, |_| {}).await.with_context(|| format!("import {}", file.display()))?;
    let name = Path::new(file.file_name().unwrap_or_default()).display();
    output::print_line(&format!(
        "Imported {} events from {name} in {:.1} s.",
        grouped(report.imported),
        report.seconds
    ))?;
    Ok(report.imported)
}

/// Waits until every plugin runs or was rejected, and at least one runs.
async fn until_started(session: &Session, plugins: &Path) -> anyhow::Result<()> {
    let (began, files) = (Instant::now(), folder::scan(plugins)?.files.len());
    loop {
        let known = history::list(session).await?;
        if known.len() >= files && known.iter().any(history::PluginStatus::runs) {
            return Ok(());
        }
        if began.elapsed() > START_TIMEOUT {
            bail!("not every plugin has started within {} s", START_TIMEOUT.as_secs());
        }
        sleep(INTERVAL).await;
    }
}

/// Opens the shop, shows the live view, and returns when all appended events are handled.
async fn show(
    args: &DemoArgs,
    db: &Db,
    session: &Session,
    stop: impl Future<Output = ()>,
    logs: &Logs,
) -> anyhow::Result<(Live, u64)> {
    let lasting = (!args.keep).then(|| Duration::from_secs(args.seconds.into()));
    let mut live = Live::start(Title { command: "sandmill demo", lasting }, db, logs).await?;
    let (close, closed) = watch::channel(false);
    let work = async {
        let mut shop = pin!(shop::open(db, args.rate, lasting, &closed));
        let appended = tokio::select! {
            appended = &mut shop => appended?,
            () = stop => {
                close.send_replace(true);
                shop.await?
            }
        };
        until_handled(session).await?;
        Ok(appended)
    };
    let appended: anyhow::Result<u64> = tokio::select! {
        appended = work => appended,
        failed = live.run() => match failed {
            Ok(never) => match never {},
            Err(error) => Err(error.into()),
        }
    };
    Ok((live, appended?))
}

/// Waits until no processor and no lane is behind.
async fn until_handled(session: &Session) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let status = status::read(session, 1).await?;
        if status.processors.iter().all(|p| p.unread_events == 0 && p.lanes_counted.all == 0) {
            return Ok(());
        }
        if began.elapsed() > END_TIMEOUT {
            bail!("not all events were handled within {} s: {}", END_TIMEOUT.as_secs(), pending(&status));
        }
        sleep(INTERVAL).await;
    }
}

/// The pending work, as text.
fn pending(status: &Status) -> String {
    let processors = status.processors.iter().map(|p| {
        let lane = p.lanes_behind.first().map_or_else(String::new, |lane| {
            let (lanes, tenant, state) = (p.lanes_counted.all, &lane.tenant, &lane.state);
            format!(" with {lanes} lanes behind; the first, of tenant {tenant}, is {state}: {}", lane.reason)
        });
        format!("{} is {} events behind{lane}", p.id, p.unread_events)
    });
    processors.collect::<Vec<_>>().join("; ")
}

/// Shows a few documents of each collection: those of the shop's largest and smallest tenants, or
/// of any tenant if these have none.
async fn documents(session: &Session, tenants: &[String]) -> anyhow::Result<()> {
    for collection in list::collections(session).await? {
        output::print_line(&format!("\nDocuments in the view {}:", collection.relation))?;
        let mut shown = Vec::new();
        for tenant in [tenants.first(), tenants.last()].into_iter().flatten() {
            shown.extend(documents_of(session, &collection, Some(tenant.clone())).await?);
        }
        if shown.is_empty() {
            shown = documents_of(session, &collection, None).await?;
        }
        if shown.is_empty() {
            output::print_line("  none: there were no events for it")?;
        }
        for ListedDocument { tenant, id, data, .. } in &shown {
            let data = data.as_ref().unwrap_or_else(|reason| reason);
            output::print_line(&fitted(&text::one_line(&format!("  {tenant:<9}  {id:<9}  {data}"))))?;
        }
    }
    Ok(())
}

/// Reads a few documents of a collection, of one tenant or of any.
async fn documents_of(
    session: &Session,
    collection: &Collection,
    tenant: Option<String>,
) -> anyhow::Result<Vec<ListedDocument>> {
    let selection = Selection { tenant, id: None, limit: Some(SHOWN), after: None };
    Ok(list::documents(session, collection, selection).try_collect().await?)
}

/// Prints the commands to try after the demo.
fn next_steps(plugins: &Path) -> io::Result<()> {
    let (program, plugins) = (program(), plugins.display());
    output::print_line(&format!(
        "
Next, with a PostgreSQL that keeps its data in .sandmill:
  {program} dev --plugins {plugins}

In another terminal, in the same folder:
  {program} append --tenant acme --stream cart-1 --type ItemAdded --data '{{\"sku\":\"mug\",\"quantity\":2,\"price\":499}}'
  {program} documents cart_summary --tenant acme
  {program} status

To write your own plugin:
  {program} plugin new my-plugin
  {program} plugin build my-plugin -o {plugins}/"
    ))
}
