//! The data of the live view, read from the database: a tally of new events, and the state of each
//! processor.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;

use super::{
    Title,
    rates::AppendRates,
    render::{LANES, LagState, LaneLine, ProcessorLine, Scene},
};
use crate::{
    db::{Db, Error, Session, describe},
    processor::status::{self, ProcessorStatus},
    store::Tally,
};

/// Time for which a processor keeps its last reported rate. 2.5 s: it reports once a second.
const RATE_LIFETIME: Duration = Duration::from_millis(2_500);
/// Maximum lag of a processor that counts as up to date while it handles nothing. 1.5 s: events of
/// other types move its cursor in memory, and the cursor is stored once a second.
const IDLE: Duration = Duration::from_millis(1_500);

/// A reader of one database's state.
pub(super) struct Observer {
    db: Db,
    session: Option<Session>,
    tally: Tally,
    rates: AppendRates,
    /// Each processor's number of handled events, and when it last changed.
    handled: HashMap<String, (i64, Duration)>,
    /// The last scene that could be read.
    scene: Scene,
}

impl Observer {
    /// An observer that counts events appended from now on.
    pub(super) async fn from_now(db: &Db) -> anyhow::Result<Self> {
        let session = db.connect("live view").await.context("connect for the live view")?;
        let tally = Tally::from_now(&session).await.context("read the head of the log")?;
        let mut rates = AppendRates::default();
        rates.add(Duration::ZERO, Vec::new());
        let (db, handled) = (db.clone(), HashMap::new());
        Ok(Observer { db, session: Some(session), tally, rates, handled, scene: Scene::default() })
    }

    /// The tenants that appended, most events first.
    pub(super) fn tenants(&self) -> Vec<String> {
        let mut tenants = self.rates.busiest();
        tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.events));
        tenants.into_iter().map(|tenant| tenant.tenant).collect()
    }

    /// The current state; if the database does not answer, the last known state with the error.
    pub(super) async fn scene(&mut self, title: &Title, now: Duration) -> Scene {
        if let Err(error) = self.refresh(now).await {
            self.session = None;
            self.scene.problem = Some(describe(&error));
        }
        Scene { command: title.command, elapsed: now, lasting: title.lasting, ..self.scene.clone() }
    }

    /// Reads the database and updates the scene.
    async fn refresh(&mut self, now: Duration) -> Result<(), Error> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.db.connect("live view").await?,
        };
        let session = self.session.insert(session);
        // Added at once: the tally returns each event once, and the rest may fail or be cancelled.
        self.rates.add(now, self.tally.new_events(session).await?);
        let status = status::read(session, LANES as i64).await?;
        // Each processor reports for the whole host. The busiest one reported most recently.
        let busiest = status.processors.iter().max_by(|a, b| a.rate.total_cmp(&b.rate)).map(|p| &p.measures);
        let (host_mib, instances) = busiest.map_or((0.0, 0), |measures| (measures.host_mib, measures.instances));
        let processors = status.processors.into_iter().map(|status| self.processor(status, now)).collect();
        self.scene = Scene { processors, tenants: self.rates.busiest(), host_mib, instances, ..Scene::default() };
        Ok(())
    }

    /// The line of a processor, with its rate and lag as of now.
    fn processor(&mut self, status: ProcessorStatus, now: Duration) -> ProcessorLine {
        let seen = self.handled.entry(status.id.clone()).or_insert((status.handled, now));
        if seen.0 != status.handled {
            *seen = (status.handled, now);
        }
        let unchanged = now.saturating_sub(seen.1);
        let rate = if unchanged < RATE_LIFETIME { status.rate } else { 0.0 };
        let is_idle = unchanged >= IDLE && status.lag_seconds < IDLE.as_secs_f64();
        let lag = match (status.paused, status.unread_events) {
            (Some(by), _) => LagState::Paused(by),
            (None, 0) => LagState::UpToDate,
            (None, _) if is_idle => LagState::UpToDate,
            (None, events) => LagState::Behind { events: events.unsigned_abs(), seconds: status.lag_seconds },
        };
        let lanes = status.lanes_behind.into_iter().map(|lane| LaneLine {
            name: if lane.key == lane.tenant { lane.tenant } else { format!("{}/{}", lane.tenant, lane.key) },
            state: lane.state,
            reason: lane.reason,
        });
        let (lanes, lanes_behind) = (lanes.collect(), status.lanes_counted.all.unsigned_abs() as usize);
        ProcessorLine { id: status.id, handled: status.handled.unsigned_abs(), rate, lag, lanes, lanes_behind }
    }
}
