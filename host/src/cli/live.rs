//! The live view: how the log, the processors and the tenants move, drawn again four times a second where somebody watches.
//!
//! On a terminal it stands still and its numbers change; log lines are shown beneath it instead of tearing it. Elsewhere it is one plain line
//! every few seconds, without escape codes. Everything shown is told from the database, on a session of the view's own, so what is seen is what
//! is committed; while the database does not answer, the view says so and asks again.

mod observer;
mod rates;
mod render;
mod screen;

use std::{
    convert::Infallible,
    io,
    time::{Duration, Instant},
};

use observer::Observer;
use render::Look;
use screen::Screen;
use tokio::time::{MissedTickBehavior, interval};

pub(super) use render::grouped;

use super::output;
use crate::{
    db::Db,
    telemetry::{self, HoldGuard, Logs},
};

/// Between two looks. Default 250 ms: quick enough to seem alive, slow enough to be read.
const LOOK: Duration = Duration::from_millis(250);
/// Between two plain lines.
const LINE: Duration = Duration::from_secs(3);

/// A line as long as the terminal is wide; all of it where there is none.
pub(super) fn fitted(line: &str) -> String {
    match screen::is_possible().then(screen::measure) {
        Some((width, height)) => render::cut(line, &Look { width, height, is_coloured: false }),
        None => line.to_owned(),
    }
}

/// What the view says besides what it finds.
#[derive(Clone, Debug)]
pub(super) struct Title {
    /// The command.
    pub(super) command: &'static str,
    /// How long it goes on, where that is known.
    pub(super) lasting: Option<Duration>,
}

/// A view of one database.
pub(super) struct Live {
    title: Title,
    began: Instant,
    observer: Observer,
    surface: Surface,
}

enum Surface {
    /// Dropped in this order: the terminal is itself again before the log lines go on.
    Screen(Screen, HoldGuard),
    /// When the last one was written.
    Lines(Instant),
}

impl Live {
    /// A view on standard output, whatever that is, that counts from now on.
    pub(super) async fn start(title: Title, db: &Db, logs: &Logs) -> anyhow::Result<Live> {
        let observer = Observer::from_now(db).await?;
        let surface = match Screen::open()? {
            Some(screen) => Surface::Screen(screen, logs.hold()),
            None => Surface::Lines(Instant::now()),
        };
        Ok(Live { title, began: Instant::now(), observer, surface })
    }

    /// Whether standard output is a terminal to draw on.
    pub(super) fn is_possible() -> bool {
        screen::is_possible()
    }

    /// Looks and draws until it is dropped. Cancel safe.
    pub(super) async fn run(&mut self) -> io::Result<Infallible> {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.show(false).await?;
        }
    }

    /// Shows how everything stands at the end, and leaves it there.
    pub(super) async fn finish(mut self) -> io::Result<()> {
        // The previous picture must be written first, or this one would be left out.
        output::stdout()?.flush();
        self.show(true).await
    }

    /// Prints a text that stays, above the drawn lines.
    pub(super) fn print_above(&mut self, text: &str) {
        if let Surface::Screen(screen, _) = &mut self.surface {
            screen.print_above(text);
        }
    }

    /// Tenants that appended while it looked, the one with the most events first.
    pub(super) fn tenants(&self) -> Vec<String> {
        self.observer.tenants()
    }

    async fn show(&mut self, is_last: bool) -> io::Result<()> {
        if !is_last && matches!(&self.surface, Surface::Lines(last) if last.elapsed() < LINE) {
            return Ok(());
        }
        let mut scene = self.observer.look(&self.title, self.began.elapsed()).await;
        match &mut self.surface {
            Surface::Screen(screen, held) => {
                scene.log = held.last(render::LOG_LINES);
                let (width, height) = screen.size();
                let look = Look { width, height, is_coloured: telemetry::is_colour_wanted() };
                screen.draw(&render::frame(&scene, &look))
            }
            Surface::Lines(last) => {
                *last = Instant::now();
                output::tell(&render::line(&scene))
            }
        }
    }
}
