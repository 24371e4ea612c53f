//! Waiting for hosts to have an image: a bar for each on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use shoal_proto::v1::ListStagedRequest;
use tokio::time::Instant;

use super::read;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::Console;
use crate::output::size::percent;
use crate::view::staged::{StagedHost, StagedView, State};

/// How often is looked how far the hosts are.
const PAUSE: Duration = Duration::from_millis(500);

/// For how long a host may fail before it is not waited for any more: it tries again meanwhile.
const PATIENCE: Duration = Duration::from_secs(15);

/// Percent between two lines about a host where there is no terminal.
const LINE_EVERY: u64 = 25;

/// How it ended.
pub(super) struct Followed {
    pub(super) view: StagedView,
    /// Whether that was before the time was up.
    pub(super) in_time: bool,
}

/// Waits until each host has the image, has failed for a while, or is offline.
pub(super) async fn follow(
    console: Console,
    client: &Client,
    image: &str,
    told: StagedView,
    limit: Duration,
) -> Result<Followed, Failure> {
    let until = Instant::now() + limit;
    let mut view = told;
    let mut shown = Shown::new(console);
    let mut failing: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        view.staged.iter().for_each(|one| shown.show(one));
        let now = Instant::now();
        failing.retain(|host, _| {
            let one = view.staged.iter().find(|one| one.host == *host);
            one.is_some_and(|one| one.state == State::Failed)
        });
        let mut is_over = |one: &StagedHost| match one.state {
            State::Staged | State::Offline => true,
            State::Failed => {
                let since = *failing.entry(one.host.clone()).or_insert(now);
                now.duration_since(since) >= PATIENCE
            }
            State::Waiting | State::Going => false,
        };
        let over = view.staged.iter().map(&mut is_over).filter(|over| *over).count();
        let is_done = over == view.staged.len();
        if is_done || now >= until {
            shown.clear();
            return Ok(Followed { view, in_time: is_done });
        }
        tokio::time::sleep(PAUSE).await;
        look(client, image, &mut view).await?;
    }
}

/// Takes in what the controller says of these hosts now.
async fn look(client: &Client, image: &str, view: &mut StagedView) -> Result<(), Failure> {
    let request = ListStagedRequest { name: image.to_owned() };
    let reply = client.images().list_staged(client.ask(request)).await;
    let reply = match reply.map_err(client.refused(format!("see how far {image} is"))) {
        Ok(reply) => reply.into_inner(),
        // It is on record; a controller that restarts meanwhile does not change that.
        Err(error) if error.is_lost() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let now = read(image, reply.staged)?;
    view.staged.retain_mut(|one| {
        match now.staged.iter().find(|other| other.host == one.host) {
            Some(newer) => *one = newer.clone(),
            // In use there by now, or taken back by someone: then it was there last.
            None if one.is_there() => {}
            None => return false,
        }
        true
    });
    Ok(())
}

/// What was said of each host.
struct Shown {
    console: Console,
    lines: Option<MultiProgress>,
    bars: BTreeMap<String, ProgressBar>,
    said: BTreeMap<String, String>,
}

impl Shown {
    fn new(console: Console) -> Self {
        let draw = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let lines = console.is_live().then(draw);
        Self { console, lines, bars: BTreeMap::new(), said: BTreeMap::new() }
    }

    fn show(&mut self, one: &StagedHost) {
        match &self.lines {
            Some(lines) => {
                let bar = self.bars.entry(one.host.clone()).or_insert_with(|| bar(lines, one));
                bar.set_position(one.received_bytes);
                bar.set_message(if one.is_there() { one.came() } else { one.words() });
            }
            None => {
                let said = line(one);
                if self.said.get(&one.host) != Some(&said) {
                    self.console.note(format!("{}: {said}", one.host));
                    self.said.insert(one.host.clone(), said);
                }
            }
        }
    }

    fn clear(&mut self) {
        for bar in std::mem::take(&mut self.bars).into_values() {
            bar.finish_and_clear();
        }
    }
}

/// What a log says of a host: a line for each quarter.
fn line(one: &StagedHost) -> String {
    match one.state {
        State::Going => {
            let done = percent(one.received_bytes, one.size_bytes) / LINE_EVERY * LINE_EVERY;
            format!("{done} %")
        }
        State::Staged => one.came(),
        State::Waiting | State::Failed | State::Offline => one.words(),
    }
}

fn bar(lines: &MultiProgress, one: &StagedHost) -> ProgressBar {
    let bar = lines.add(ProgressBar::new(one.size_bytes));
    // The template is a constant; were it wrong, the default bar would do.
    let style = ProgressStyle::with_template("{prefix:16} [{bar:24}] {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(one.host.clone());
    bar
}
