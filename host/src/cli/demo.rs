//! `sandmill demo`: the main job on a private database, live: a shop whose tenants are of very different size, and flights that were there before.
//!
//! The flights are imported first, so that their processors catch up while the shop's is level with what is appended. What is shown is counted
//! by the database, and the demo fails unless everything that it appended was handled.

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

/// Shows a shop's events become documents, live, on a private database.
#[derive(Debug, clap::Args)]
#[command(after_help = "Nothing of it stays: the server and its files are gone when the command ends, however it ends.

Examples, with the example plugins of a checkout built:
  sandmill demo --plugins target/demo/plugins
  sandmill demo --plugins target/demo/plugins --keep --rate 2000")]
pub(super) struct DemoArgs {
    /// The folder with the plugins
    #[arg(long, value_name = "DIR")]
    plugins: PathBuf,
    /// Events that are there before the shop opens, as `sandmill import` takes them
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// How long the shop is open; with 0 it stays closed, and the demo is about the events that are there
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    seconds: u32,
    /// Keep the shop open until Ctrl-C
    #[arg(long, conflicts_with = "seconds")]
    keep: bool,
    /// Events that the shop appends a second
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
}

/// Documents of each collection that are shown of a tenant, or of nobody in particular.
const SHOWN: i64 = 2;
/// How long the processors may take to begin. Default 300 s: their plugins are compiled, on a
/// machine that may be busy.
const PATIENCE_TO_BEGIN: Duration = Duration::from_secs(300);
/// How long they may take to handle the rest after the shop has closed. Default 300 s; reached only
/// on a failure.
const PATIENCE_TO_END: Duration = Duration::from_secs(300);
/// Between two looks for that.
const LOOK: Duration = Duration::from_millis(100);

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
        output::tell(&format!(
            "A shop with {} tenants, one of them with 60 % of all events, opens {open}.",
            shop::TENANTS
        ))?;
        output::tell("Each tenant has a sandbox and a lane of its own, so that none waits for another.")?;
    }
    if args.keep {
        output::tell(&format!(
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
            begun = until_begun(&session, &args.plugins) => {
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

    output::tell(&format!(
        "\nThe shop appended {} events, {} were there before: all are handled.",
        grouped(appended),
        grouped(imported)
    ))?;
    documents(&session, &tenants).await?;
    what_next(&args.plugins)?;
    Ok(ExitCode::SUCCESS)
}

/// A server with the tables, and the events that exist before the shop opens.
async fn prepare(args: &DemoArgs) -> anyhow::Result<(Embedded, Db, Session, u64)> {
    let server = Embedded::start(Options::default()).await?;
    output::tell(&format!("A private PostgreSQL {} is running, and is removed at the end.", server.version()))?;
    let db = Db::parse(&server.address())?;
    let mut session = db.connect("demo").await?;
    migrate::migrate(&mut session).await?;
    let imported = match &args.events {
        Some(file) => import_all(&mut session, file).await?,
        None => 0,
    };
    Ok((server, db, session, imported))
}

async fn import_all(session: &mut Session, file: &Path) -> anyhow::Result<u64> {
    let input = ImportInput::open(file).with_context(|| format!("open {}", file.display()))?;
    let report = import(session, input, |_| {}).await.with_context(|| format!("import {}", file.display()))?;
    let name = Path::new(file.file_name().unwrap_or_default()).display();
    output::tell(&format!(
        "{} events were imported from {name} in {:.1} s.",
        grouped(report.imported),
        report.seconds
    ))?;
    Ok(report.imported)
}

/// Waits until every plugin runs or was refused, and one of them runs.
async fn until_begun(session: &Session, plugins: &Path) -> anyhow::Result<()> {
    let (began, files) = (Instant::now(), folder::scan(plugins)?.files.len());
    loop {
        let known = history::list(session).await?;
        if known.len() >= files && known.iter().any(history::PluginStatus::runs) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE_TO_BEGIN {
            bail!("not every plugin has begun within {} s", PATIENCE_TO_BEGIN.as_secs());
        }
        sleep(LOOK).await;
    }
}

/// Opens the shop, shows what happens, and returns when everything that was appended is handled.
async fn show(
    args: &DemoArgs,
    db: &Db,
    session: &Session,
    told: impl Future<Output = ()>,
    logs: &Logs,
) -> anyhow::Result<(Live, u64)> {
    let lasting = (!args.keep).then(|| Duration::from_secs(args.seconds.into()));
    let mut live = Live::start(Title { command: "sandmill demo", lasting }, db, logs).await?;
    let (close, closed) = watch::channel(false);
    let work = async {
        let mut shop = pin!(shop::open(db, args.rate, lasting, &closed));
        let appended = tokio::select! {
            appended = &mut shop => appended?,
            () = told => {
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
        if began.elapsed() > PATIENCE_TO_END {
            bail!("not everything was handled within {} s: {}", PATIENCE_TO_END.as_secs(), left(&status));
        }
        sleep(LOOK).await;
    }
}

/// What is left to handle, for people.
fn left(status: &Status) -> String {
    let processors = status.processors.iter().map(|p| {
        let lane = p.lanes_behind.first().map_or_else(String::new, |lane| {
            let (lanes, tenant, state) = (p.lanes_counted.all, &lane.tenant, &lane.state);
            format!(", and {lanes} lanes; the first is {state} at tenant {tenant}: {}", lane.reason)
        });
        format!("{} is {} events behind{lane}", p.id, p.unread_events)
    });
    processors.collect::<Vec<_>>().join("; ")
}

/// Shows a few documents of each collection: of the largest and the smallest tenant of the shop, or of anybody.
async fn documents(session: &Session, tenants: &[String]) -> anyhow::Result<()> {
    for collection in list::collections(session).await? {
        output::tell(&format!("\nDocuments in the view {}:", collection.relation))?;
        let mut shown = Vec::new();
        for tenant in [tenants.first(), tenants.last()].into_iter().flatten() {
            shown.extend(some(session, &collection, Some(tenant.clone())).await?);
        }
        if shown.is_empty() {
            shown = some(session, &collection, None).await?;
        }
        if shown.is_empty() {
            output::tell("  none: there were no events for it")?;
        }
        for ListedDocument { tenant, id, data, .. } in &shown {
            let data = data.as_ref().unwrap_or_else(|why| why);
            output::tell(&fitted(&text::one_line(&format!("  {tenant:<9}  {id:<9}  {data}"))))?;
        }
    }
    Ok(())
}

async fn some(
    session: &Session,
    collection: &Collection,
    tenant: Option<String>,
) -> anyhow::Result<Vec<ListedDocument>> {
    let selection = Selection { tenant, id: None, limit: Some(SHOWN), after: None };
    Ok(list::documents(session, collection, selection).try_collect().await?)
}

fn what_next(plugins: &Path) -> io::Result<()> {
    let (program, plugins) = (program(), plugins.display());
    output::tell(&format!(
        "
What next, with a PostgreSQL that keeps its data in .sandmill:
  {program} dev --plugins {plugins}

and in another terminal, in the same folder:
  {program} append --tenant acme --stream cart-1 --type ItemAdded --data '{{\"sku\":\"mug\",\"quantity\":2,\"price\":499}}'
  {program} documents cart_summary --tenant acme
  {program} status

A plugin of your own:
  {program} plugin new my-plugin
  {program} plugin build my-plugin -o {plugins}/"
    ))
}
