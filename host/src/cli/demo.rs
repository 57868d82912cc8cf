//! `sandmill demo`: the main job on a private database, from events to documents, in one go.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context;
use futures_util::TryStreamExt;

use super::table;
use crate::{
    app::{self, Ended, Until},
    config::Config,
    db::{
        Db,
        embedded::{Embedded, Options},
        migrate,
    },
    model::ids::CollectionName,
    processor::status,
    projections::list::{self, Selection},
    store::import::{Input, import},
};

/// Shows the main job on a private database.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing of it stays: the server and its files are gone when the command ends, however it ends."
)]
pub(super) struct DemoArgs {
    /// The folder with the plugins
    #[arg(long, value_name = "DIR")]
    plugins: PathBuf,
    /// The events, as `sandmill import` takes them
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
}

/// Documents of each collection that are shown.
const SHOWN: i64 = 4;

pub(super) async fn run(args: DemoArgs, mut config: Config) -> anyhow::Result<ExitCode> {
    step("Starting a private PostgreSQL server");
    let server = Embedded::start(Options::default()).await?;
    println!("PostgreSQL {}, reached through {}", server.version(), server.address());
    let db = Db::parse(&server.address())?;
    let mut session = db.connect("demo").await?;
    migrate::migrate(&mut session).await?;

    step(&format!("Importing events from {}", args.events.display()));
    let input = Input::open(&args.events).with_context(|| format!("open {}", args.events.display()))?;
    let report = import(&mut session, input, |_| {}).await.context("import")?;
    println!("{} events in {:.1} s", report.imported, report.seconds);

    step(&format!("Running the plugins in {} on them", args.plugins.display()));
    config.plugins = args.plugins;
    let began = Instant::now();
    let (drain, abort) = super::run::signals()?;
    let ended = app::run(&config, &db, Until::CaughtUp, drain, abort).await?;
    if !matches!(ended, Ended::CaughtUp { refused: 0 }) {
        anyhow::bail!("the demo did not come to its end: {ended:?}");
    }
    let status = status::read(&session).await?;
    let mut rows = vec![["PROCESSOR", "EVENTS", "LAG", "LANES BEHIND"].map(String::from).to_vec()];
    for p in &status.processors {
        rows.push(vec![
            p.id.clone(),
            p.handled.to_string(),
            p.lag_events.to_string(),
            p.lanes_behind.len().to_string(),
        ]);
    }
    print!("{}", table(&rows));
    println!(
        "caught up in {:.1} s; documents and cursors were committed together, page by page",
        began.elapsed().as_secs_f64()
    );

    for name in list::collections(&session).await? {
        step(&format!("Documents in the view public.{name}"));
        let collection = CollectionName::parse(&name)?;
        let selection = Selection { limit: Some(SHOWN), ..Selection::default() };
        let documents = list::documents(&session, &collection, &selection).await?;
        let documents: Vec<_> = documents.try_collect().await?;
        for document in &documents {
            println!("{}  {}  {}", document.tenant, document.id, document.data);
        }
    }
    step("What next");
    println!(
        "  export DATABASE_URL=postgresql://…      your own database\n  \
           sandmill migrate                        makes the tables\n  \
           sandmill append --help                  writes events\n  \
           sandmill plugin build DIR -o plugins/   makes a plugin of a Rust crate\n  \
           sandmill run --plugins plugins          runs it"
    );
    drop(session);
    Ok(ExitCode::SUCCESS)
}

fn step(what: &str) {
    println!("\n{what}");
}
