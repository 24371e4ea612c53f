//! What agents did and noticed.

use serde::Serialize;
use shoal_core::event::{Event, EventKind};
use shoal_proto::convert::Invalid;
use shoal_proto::v1;

use crate::output::table::{Cell, Table, Tone};
use crate::output::text::printable;
use crate::output::time::At;

#[derive(Debug, Serialize)]
pub(crate) struct EventsView {
    /// Oldest first.
    pub(crate) events: Vec<EventView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct EventView {
    time: At,
    host: String,
    /// `FLEET/INSTANCE`; absent where it is of the host.
    instance: Option<String>,
    kind: EventKind,
    message: String,
    /// Whether it is something to look at.
    warning: bool,
}

impl TryFrom<v1::Event> for EventView {
    type Error = Invalid;

    fn try_from(wire: v1::Event) -> Result<Self, Invalid> {
        let host = wire.host.clone();
        let Event { at, instance, kind, message } = wire.try_into()?;
        let (instance, warning) = (instance.map(|id| id.to_string()), kind.is_warning());
        Ok(Self { time: At::new(at.0), host, instance, kind, message, warning })
    }
}

impl EventView {
    fn tone(&self) -> Tone {
        match self.kind {
            EventKind::Failed | EventKind::WentBack => Tone::Bad,
            EventKind::Drift => Tone::Waiting,
            EventKind::Repaired => Tone::Good,
            EventKind::Step | EventKind::State => Tone::Plain,
        }
    }

    /// One of many that come one by one, so that no column knows how wide it has to be.
    pub(crate) fn line(&self, color: bool) -> String {
        let Self { time, host, instance, kind, message, .. } = self;
        let instance = instance.as_deref().unwrap_or("-");
        let kind = self.tone().paint(&format!("{kind:<9}"), color);
        format!("{time} {host:<12} {instance:<24} {kind} {}", printable(message))
    }
}

impl EventsView {
    pub(crate) fn table(&self, color: bool) -> String {
        let mut table = Table::new(&["TIME", "HOST", "INSTANCE", "KIND", "MESSAGE"]);
        for event in &self.events {
            table.row(vec![
                event.time.into(),
                (&event.host).into(),
                event.instance.as_deref().unwrap_or_default().into(),
                Cell::toned(event.kind, event.tone()),
                (&event.message).into(),
            ]);
        }
        table.render(color, "No events.")
    }
}
