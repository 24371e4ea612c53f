//! `shoal events`: what agents did and noticed, until now or as it comes.

use shoal_proto::v1::{Event, ListEventsRequest};

use super::outage::Outage;
use super::seen::Seen;
use super::{Shell, interrupted};
use crate::args::instance::EventsArgs;
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::output::{Console, reader};
use crate::target::Scope;
use crate::view::event::{EventView, EventsView};

/// Every one that is kept.
const ALL: u32 = u32::MAX;

pub(super) async fn run(shell: &Shell, args: EventsArgs) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let request = request(args);
    if !request.follow {
        let mut events = Vec::new();
        let mut stream = open(&client, request).await?;
        while let Some(event) = stream.message().await.map_err(client.refused("list events"))? {
            events.push(view(event)?);
        }
        let view = EventsView { events };
        shell.console.result(view.table(shell.console.color()), &view)?;
        return Ok(Exit::Done);
    }
    tokio::select! {
        ended = follow(shell.console, &client, request) => ended,
        gone = reader::gone() => Err(gone.into()),
        () = interrupted() => Ok(Exit::Interrupted),
    }
}

fn request(args: EventsArgs) -> ListEventsRequest {
    let EventsArgs { target, selector, host, since, lines, follow, warnings } = args;
    let (fleet, instance, on) = match target {
        Some(Scope { fleet, instance, host }) => {
            (fleet.to_string(), instance.map(String::from).unwrap_or_default(), host)
        }
        None => (String::new(), String::new(), None),
    };
    ListEventsRequest {
        fleet,
        instance,
        host: on.or(host).map(String::from).unwrap_or_default(),
        selector: selector.map(String::from).unwrap_or_default(),
        since_ms: since.map_or(0, |when| when.millis()),
        // 0 leaves it to the controller.
        limit: lines.unwrap_or(if since.is_some() { ALL } else { 0 }),
        follow,
        warnings_only: warnings,
    }
}

async fn open(
    client: &Client,
    request: ListEventsRequest,
) -> Result<tonic::Streaming<Event>, Failure> {
    let opened = client.events().list(request).await;
    Ok(opened.map_err(client.refused("list events"))?.into_inner())
}

fn view(event: Event) -> Result<EventView, ReplyError> {
    EventView::try_from(event).map_err(ReplyError::about("events"))
}

/// Shows events until the controller is given up.
async fn follow(
    console: Console,
    client: &Client,
    first: ListEventsRequest,
) -> Result<Exit, Failure> {
    let mut seen = Seen::default();
    let mut outage = Outage::default();
    let mut request = first.clone();
    loop {
        let error = match once(console, client, request, &mut seen, &mut outage).await {
            Ok(()) => None,
            Err(Failure::Remote(error)) if error.is_lost() => Some(error),
            Err(other) => return Err(other),
        };
        if outage.is_hopeless()
            && let Some(error) = error
        {
            return Err(error.into());
        }
        if outage.goes_on() {
            console.note("the controller is gone; waiting for it");
        }
        outage.pause().await;
        let now_us = clock::now().0.saturating_mul(1000);
        request = match seen.since(now_us) {
            Some(since_us) => {
                let since_ms = first.since_ms.max(since_us / 1000);
                ListEventsRequest { since_ms, limit: ALL, ..first.clone() }
            }
            None => first.clone(),
        };
    }
}

/// One stream, until it ends.
async fn once(
    console: Console,
    client: &Client,
    request: ListEventsRequest,
    seen: &mut Seen,
    outage: &mut Outage,
) -> Result<(), Failure> {
    let mut stream = open(client, request).await?;
    if outage.is_over() {
        console.note("the controller is back");
    }
    while let Some(event) = stream.message().await.map_err(client.refused("list events"))? {
        let about = (&event.host, &event.instance, event.kind, &event.message);
        if seen.take(event.at_ms.saturating_mul(1000), &about) {
            let view = view(event)?;
            console.stream(view.line(console.color()), &view)?;
        }
    }
    Ok(())
}
