//! The live view: the progress of the log, the processors and the tenants, refreshed four times a
//! second.
//!
//! On a terminal it redraws in place, with the latest log lines below. Elsewhere it prints one
//! plain line every few seconds. All data is read from the database on a separate session, so the
//! view shows what is committed. If the database does not answer, the view shows the error and
//! retries.

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
use render::Canvas;
use screen::Screen;
use tokio::time::{MissedTickBehavior, interval};

pub(super) use render::grouped;

use super::output;
use crate::{
    db::Db,
    telemetry::{self, CaptureGuard, Logs},
};

/// Time between two frames. 250 ms: fast enough to look live, slow enough to be read.
const FRAME_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(3);

/// A line cut to the terminal's width; unchanged if there is no terminal.
pub(super) fn fitted(line: &str) -> String {
    match screen::is_possible().then(screen::measure) {
        Some((width, height)) => render::cut(line, &Canvas { width, height, is_coloured: false }),
        None => line.to_owned(),
    }
}

/// The heading of the view.
#[derive(Clone, Debug)]
pub(super) struct Title {
    /// The command's name.
    pub(super) command: &'static str,
    /// The duration, if it is limited.
    pub(super) lasting: Option<Duration>,
}

/// A live view of one database.
pub(super) struct Live {
    title: Title,
    began: Instant,
    observer: Observer,
    surface: Surface,
}

enum Surface {
    /// Dropped in this order: the terminal is restored before captured log lines are written.
    Screen(Screen, CaptureGuard),
    /// When the last line was written.
    Lines(Instant),
}

impl Live {
    /// A view on standard output that counts events from now on.
    pub(super) async fn start(title: Title, db: &Db, logs: &Logs) -> anyhow::Result<Live> {
        let observer = Observer::from_now(db).await?;
        let surface = match Screen::open()? {
            Some(screen) => Surface::Screen(screen, logs.capture()),
            None => Surface::Lines(Instant::now()),
        };
        Ok(Live { title, began: Instant::now(), observer, surface })
    }

    /// Whether standard output is a terminal that can be drawn on.
    pub(super) fn is_possible() -> bool {
        screen::is_possible()
    }

    /// Draws until it is dropped. Cancel safe.
    pub(super) async fn run(&mut self) -> io::Result<Infallible> {
        let mut ticks = interval(FRAME_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.show(false).await?;
        }
    }

    /// Draws the final frame, which stays on the terminal.
    pub(super) async fn finish(mut self) -> io::Result<()> {
        // A frame is dropped while the previous one is unwritten, so the previous one is flushed
        // first.
        output::stdout()?.flush();
        self.show(true).await
    }

    /// Prints text above the drawn lines, where it stays.
    pub(super) fn print_above(&mut self, text: &str) {
        if let Surface::Screen(screen, _) = &mut self.surface {
            screen.print_above(text);
        }
    }

    /// The tenants that appended during the view, most events first.
    pub(super) fn tenants(&self) -> Vec<String> {
        self.observer.tenants()
    }

    /// Draws a frame, or prints a line if it is time for one.
    async fn show(&mut self, is_last: bool) -> io::Result<()> {
        if !is_last && matches!(&self.surface, Surface::Lines(last) if last.elapsed() < LINE_INTERVAL) {
            return Ok(());
        }
        let mut scene = self.observer.scene(&self.title, self.began.elapsed()).await;
        match &mut self.surface {
            Surface::Screen(screen, captured) => {
                scene.log = captured.last(render::LOG_LINES);
                let (width, height) = screen.size();
                let canvas = Canvas { width, height, is_coloured: telemetry::is_colour_wanted() };
                screen.draw(&render::frame(&scene, &canvas))
            }
            Surface::Lines(last) => {
                *last = Instant::now();
                output::print_line(&render::line(&scene))
            }
        }
    }
}
