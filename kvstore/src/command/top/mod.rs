//! `kvtier top`: what a daemon does right now.
//!
//! ```text
//!   daemon ─▶ sample, every interval ─▶ what changed since the last ones ─▶ screen
//! ```

mod rates;
mod screen;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use kvtier_proto::v1;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::Answer;
use super::arguments::TopOptions;
use super::client::{Client, Trouble, message};
use crate::terminal;

pub(super) use self::rates::Sample;

/// Samples that are remembered for the curves.
const SAMPLES_MAX: usize = 240;

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct Top {
    /// The oldest first.
    samples: VecDeque<Sample>,
    /// The tenant that is shown; none: the sum of all.
    tenant: Option<usize>,
    /// Why there was no answer last time.
    trouble: Option<String>,
}

impl Top {
    fn add(&mut self, sample: Sample) {
        // Another life of the daemon counts from zero.
        let is_other = |last: &Sample| last.status.boot_epoch != sample.status.boot_epoch;
        if self.samples.back().is_some_and(is_other) {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.trouble = None;
    }

    /// The next tenant, or all of them after the last.
    fn turn(&mut self) {
        let count = self.samples.back().map_or(0, |last| last.status.tenants.len());
        let next = self.tenant.map_or(0, |tenant| tenant + 1);
        self.tenant = (next < count).then_some(next);
    }
}

/// Shows it until somebody wants no more of it.
pub(super) async fn show(client: &mut Client, options: &TopOptions) -> Result<Answer, Trouble> {
    if options.daemon.json {
        return follow(client, options).await;
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Trouble::Usage(
            "top needs a terminal; --json writes a line for each interval anywhere".to_owned(),
        ));
    }
    let mut terminal =
        ratatui::try_init().map_err(|error| Trouble::Usage(format!("the terminal: {error}")))?;
    let shown = run(client, options.interval, &mut terminal).await;
    ratatui::restore();
    shown.map(|()| nothing())
}

async fn run(client: &mut Client, interval: Duration, terminal: &mut DefaultTerminal) -> Result<(), Trouble> {
    let mut keys = keys();
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Trouble::Usage(format!("could not wait for a signal: {error}")))?;
    let (sender, mut samples) = mpsc::channel(1);
    // Apart from the keys: a daemon that does not answer keeps nobody from leaving.
    let asking = ask(client, interval, sender);
    tokio::pin!(asking);
    let mut top = Top::default();
    loop {
        tokio::select! {
            () = &mut asking => return Ok(()),
            sample = samples.recv() => match sample {
                Some(Ok(sample)) => top.add(sample),
                // The first answer decides whether there is anything to show.
                Some(Err(trouble)) if top.samples.is_empty() => return Err(trouble),
                Some(Err(trouble)) => top.trouble = Some(trouble.short()),
                None => return Ok(()),
            },
            key = keys.recv() => match key {
                Some(Key::Quit) | None => return Ok(()),
                Some(Key::Turn) => top.turn(),
                Some(Key::Other) => {}
            },
            _ = terminate.recv() => return Ok(()),
        }
        let drawn = terminal.draw(|frame| screen::draw(frame, &top));
        drawn.map_err(|error| Trouble::Usage(format!("the terminal: {error}")))?;
    }
}

/// Asks in every interval until nobody takes the answers.
async fn ask(client: &mut Client, interval: Duration, answers: mpsc::Sender<Result<Sample, Trouble>>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if answers.send(sample(client).await).await.is_err() {
            return;
        }
    }
}

/// A JSON object for each interval, until nobody reads any more.
async fn follow(client: &mut Client, options: &TopOptions) -> Result<Answer, Trouble> {
    let mut top = Top::default();
    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        top.add(sample(client).await?);
        let Some(rates) = top.rates() else { continue };
        let line = serde_json::to_string(&rates).map_err(|error| Trouble::Answer(error.to_string()))?;
        match terminal::write(&(line + "\n")) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(nothing()),
            Err(error) => return Err(Trouble::Answer(error.to_string())),
        }
    }
}

async fn sample(client: &mut Client) -> Result<Sample, Trouble> {
    let request = client.request(v1::GetStatusRequest {});
    let status = message(client.admin.get_status(request).await)?;
    let request = client.request(v1::ListTiersRequest::default());
    let tiers = message(client.admin.list_tiers(request).await)?.tiers;
    Ok(Sample {
        at: Instant::now(),
        status,
        tiers,
    })
}

fn nothing() -> Answer {
    Answer {
        text: String::new(),
        code: 0,
    }
}

/// What somebody wants.
enum Key {
    Quit,
    Turn,
    /// The window has another size.
    Other,
}

/// Keys, from a thread that ends with the process: nothing else wakes who reads a terminal.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            let key = match event {
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
                    KeyCode::Char('t') | KeyCode::Tab => Key::Turn,
                    _ => continue,
                },
                Event::Resize(..) => Key::Other,
                _ => continue,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    receiver
}
