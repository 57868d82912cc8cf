//! What the view knows of the database: a tally of new events, and how every processor stands.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;

use super::{
    Title,
    rates::Rates,
    render::{LANES, Lane, Processor, Scene, Standing},
};
use crate::{
    db::{Db, Error, Session, describe},
    processor::status::{self, ProcessorStatus},
    store::Tally,
};

/// How long a processor that handled nothing more is said to have a rate. Default 2.5 s: it reports once a second.
const STILL: Duration = Duration::from_millis(2_500);
/// How far behind a processor may seem that handled nothing for as long. Default 1.5 s: events that are none of its own move its cursor in
/// memory, and that is stored once a second.
const IDLE: Duration = Duration::from_millis(1_500);

/// Looks at a database again and again.
pub(super) struct Observer {
    db: Db,
    session: Option<Session>,
    tally: Tally,
    rates: Rates,
    /// What each processor had handled when that last changed, and when.
    handled: HashMap<String, (i64, Duration)>,
    scene: Scene,
}

impl Observer {
    /// Counts what is appended from now on.
    pub(super) async fn from_now(db: &Db) -> anyhow::Result<Self> {
        let session = db.connect("live view").await.context("connect for the live view")?;
        let tally = Tally::from_now(&session).await.context("look at the log")?;
        let mut rates = Rates::default();
        rates.add(Duration::ZERO, Vec::new());
        let (db, handled) = (db.clone(), HashMap::new());
        Ok(Observer { db, session: Some(session), tally, rates, handled, scene: Scene::default() })
    }

    /// Tenants that appended, the one with the most events first.
    pub(super) fn tenants(&self) -> Vec<String> {
        let mut tenants = self.rates.busiest();
        tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.events));
        tenants.into_iter().map(|tenant| tenant.tenant).collect()
    }

    /// How everything stands; if the database does not tell, how it stood, and why that is not known better.
    pub(super) async fn look(&mut self, title: &Title, now: Duration) -> Scene {
        let found = self.ask(now).await;
        if let Err(error) = &found {
            self.session = None;
            self.scene.problem = Some(describe(error));
        }
        Scene { command: title.command, elapsed: now, lasting: title.lasting, ..self.scene.clone() }
    }

    async fn ask(&mut self, now: Duration) -> Result<(), Error> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.db.connect("live view").await?,
        };
        let session = self.session.insert(session);
        let news = self.tally.new_events(session).await?;
        let status = status::read(session, LANES as i64).await?;
        self.rates.add(now, news);
        // Each processor reports for the whole host, and those that are idle reported long ago.
        let busiest = status.processors.iter().max_by(|a, b| a.rate.total_cmp(&b.rate)).map(|p| &p.measures);
        let (host_mib, instances) = busiest.map_or((0.0, 0), |measures| (measures.host_mib, measures.instances));
        let processors = status.processors.into_iter().map(|status| self.processor(status, now)).collect();
        self.scene = Scene { processors, tenants: self.rates.busiest(), host_mib, instances, ..Scene::default() };
        Ok(())
    }

    fn processor(&mut self, status: ProcessorStatus, now: Duration) -> Processor {
        let seen = self.handled.entry(status.id.clone()).or_insert((status.handled, now));
        if seen.0 != status.handled {
            *seen = (status.handled, now);
        }
        let still = now.saturating_sub(seen.1);
        let rate = if still < STILL { status.rate } else { 0.0 };
        let is_idle = still >= IDLE && status.lag_seconds < IDLE.as_secs_f64();
        let standing = match (status.paused, status.unread_events) {
            (Some(by), _) => Standing::Paused(by),
            (None, 0) => Standing::UpToDate,
            (None, _) if is_idle => Standing::UpToDate,
            (None, events) => Standing::Behind { events: events.unsigned_abs(), seconds: status.lag_seconds },
        };
        let lanes = status.lanes_behind.into_iter().map(|lane| Lane {
            name: if lane.key == lane.tenant { lane.tenant } else { format!("{}/{}", lane.tenant, lane.key) },
            state: lane.state,
            reason: lane.reason,
        });
        let (lanes, lanes_behind) = (lanes.collect(), status.lanes_counted.all.unsigned_abs() as usize);
        Processor { id: status.id, handled: status.handled.unsigned_abs(), rate, standing, lanes, lanes_behind }
    }
}
