//! `shoal host drain`: asks for it, tells how far it is, and says the truth about what is left.
//!
//! The controller does it while this listens. A controller that restarts meanwhile is asked again,
//! which goes on where it was.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_proto::convert::millis;
use shoal_proto::v1::DrainHostRequest;
use tokio::time::Instant;

use crate::args::host::DrainArgs;
use crate::client::{Client, ReplyError};
use crate::commands::outage::Outage;
use crate::commands::{Shell, interrupted};
use crate::exit::Failure;
use crate::output::Console;
use crate::view::host::drain::{DrainView, State};

/// Why a host is not empty.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrainError {
    #[error(
        "host {host} is not empty, and waiting does not help:{}\nit takes nothing until `shoal host \
         uncordon {host}`; once that is put right, drain it again", indented(.left)
    )]
    Left { host: String, left: Vec<String> },
    #[error(
        "host {host} is not empty yet, and the time is up:{}\nrollouts that were begun go on, and \
         it takes nothing until `shoal host uncordon {host}`; drain it again to wait for the rest",
        indented(.left)
    )]
    TimedOut { host: String, left: Vec<String> },
    #[error(
        "interrupted: rollouts that were begun go on, and host {host} takes nothing until `shoal \
         host uncordon {host}`; drain it again to go on"
    )]
    Interrupted { host: String },
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

pub(super) async fn run(shell: &Shell, client: &Client, args: DrainArgs) -> Result<(), Failure> {
    let host = args.name.to_string();
    let mut drainer = drainer(shell.console, client, args);
    let view = tokio::select! {
        ended = drainer.run() => ended?,
        () = interrupted() => return Err(DrainError::Interrupted { host }.into()),
    };
    shell.console.result(view.text(), &view)?;
    conclude(&view)?;
    Ok(())
}

fn drainer(console: Console, client: &Client, args: DrainArgs) -> Drainer<'_> {
    let DrainArgs { name, timeout, reason } = args;
    Drainer {
        console,
        client,
        until: Instant::now() + timeout,
        request: DrainHostRequest {
            name: name.to_string(),
            reason: reason.unwrap_or_default(),
            timeout_ms: millis(timeout),
        },
        last: None,
        told: BTreeSet::new(),
    }
}

fn conclude(view: &DrainView) -> Result<(), DrainError> {
    let (host, left) = (view.host.clone(), view.left());
    match view.state {
        State::Empty => Ok(()),
        State::Left => Err(DrainError::Left { host, left }),
        State::TimedOut | State::Draining => Err(DrainError::TimedOut { host, left }),
    }
}

struct Drainer<'a> {
    console: Console,
    client: &'a Client,
    until: Instant,
    request: DrainHostRequest,
    last: Option<DrainView>,
    /// Lines that were said. What fails again and again goes through the same states each time.
    told: BTreeSet<String>,
}

impl Drainer<'_> {
    /// Listens to the end, over as many streams as it takes.
    async fn run(&mut self) -> Result<DrainView, Failure> {
        let mut outage = Outage::default();
        loop {
            let lost = match self.listen(&mut outage).await {
                Ok(Some(over)) => return Ok(over),
                Ok(None) => None,
                Err(Failure::Remote(error)) if error.is_lost() && self.was_begun(&outage) => {
                    Some(error)
                }
                Err(other) => return Err(other),
            };
            if outage.goes_on() {
                self.console.note("the controller is gone; waiting for it");
            }
            if outage.is_hopeless() {
                return Err(match (lost, self.last.take()) {
                    (Some(error), _) => error.into(),
                    (None, last) => {
                        let left = last.map(|last| last.left()).unwrap_or_default();
                        DrainError::TimedOut { host: self.request.name.clone(), left }.into()
                    }
                });
            }
            outage.pause().await;
            let rest = self.until.saturating_duration_since(Instant::now());
            // Nothing at all would mean the usual time.
            self.request.timeout_ms = millis(rest.max(Duration::from_millis(1)));
        }
    }

    /// Whether anything was heard before: a controller that was never there is not waited for.
    fn was_begun(&self, outage: &Outage) -> bool {
        self.last.is_some() || outage.has_begun()
    }

    /// One stream: what it came to, or `None` where the stream ended first.
    async fn listen(&mut self, outage: &mut Outage) -> Result<Option<DrainView>, Failure> {
        let doing = format!("drain host {}", self.request.name);
        let stream = self.client.hosts().drain(self.request.clone()).await;
        let mut stream = stream.map_err(self.client.refused(&doing))?.into_inner();
        loop {
            let message = stream.message().await.map_err(self.client.refused(&doing))?;
            let Some(message) = message else { return Ok(None) };
            if outage.is_over() {
                self.console.note("the controller is back");
            }
            let about = format!("host {}", self.request.name);
            let view = DrainView::read(&self.request.name, message)
                .map_err(ReplyError::about(about))?;
            self.say(&view);
            if view.state != State::Draining {
                return Ok(Some(view));
            }
            self.last = Some(view);
        }
    }

    fn say(&mut self, view: &DrainView) {
        for line in view.news(self.last.as_ref()) {
            if self.told.insert(line.clone()) {
                self.console.note(line);
            }
        }
    }
}

#[cfg(test)]
mod tests;
