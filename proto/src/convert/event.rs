//! What happened on a host.

use shoal_core::event::{Event, EventKind};
use shoal_core::time::Timestamp;

use super::{Invalid, parse};
use crate::v1;

impl TryFrom<v1::Event> for Event {
    type Error = Invalid;

    fn try_from(wire: v1::Event) -> Result<Self, Invalid> {
        // The host is whoever sends it.
        let v1::Event { at_ms, instance, kind, message, host: _ } = wire;
        let instance = instance.map(|id| parse("instance", &id)).transpose()?;
        Ok(Self { at: Timestamp(at_ms), instance, kind: kind_from(kind)?, message })
    }
}

impl From<Event> for v1::Event {
    fn from(event: Event) -> Self {
        let Event { at, instance, kind, message } = event;
        let instance = instance.map(|id| id.to_string());
        let kind = kind_to(kind).into();
        Self { at_ms: at.0, instance, kind, message, host: String::new() }
    }
}

fn kind_from(wire: i32) -> Result<EventKind, Invalid> {
    use v1::EventKind as Wire;
    Ok(match Wire::try_from(wire) {
        Ok(Wire::Step) => EventKind::Step,
        Ok(Wire::Drift) => EventKind::Drift,
        Ok(Wire::Repaired) => EventKind::Repaired,
        Ok(Wire::Failed) => EventKind::Failed,
        Ok(Wire::State) => EventKind::State,
        Ok(Wire::WentBack) => EventKind::WentBack,
        Ok(Wire::Unspecified) | Err(_) => {
            return Err(Invalid::Unknown { field: "kind", value: wire });
        }
    })
}

fn kind_to(kind: EventKind) -> v1::EventKind {
    match kind {
        EventKind::Step => v1::EventKind::Step,
        EventKind::Drift => v1::EventKind::Drift,
        EventKind::Repaired => v1::EventKind::Repaired,
        EventKind::Failed => v1::EventKind::Failed,
        EventKind::State => v1::EventKind::State,
        EventKind::WentBack => v1::EventKind::WentBack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_wire() {
        for kind in EventKind::ALL {
            let event = Event {
                at: Timestamp(7),
                instance: Some("shop/db".parse().unwrap()),
                kind,
                message: "why".into(),
            };
            assert_eq!(Event::try_from(v1::Event::from(event.clone())), Ok(event));
        }
    }
}
