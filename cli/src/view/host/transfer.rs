//! Images on their way to a host.

use serde::Serialize;
use shoal_core::transfer::{Phase, TransferStatus};
use shoal_proto::convert::Invalid;
use shoal_proto::v1;

use crate::output::size::{bytes, percent};
use crate::output::text::printable;

/// How an image is coming, or came, to a host.
#[derive(Debug, Serialize)]
pub(crate) struct TransferView {
    image: String,
    digest: String,
    /// `planning`, `making`, `receiving` or `done`.
    phase: &'static str,
    /// Bytes of the image that are there.
    received_bytes: u64,
    total_bytes: u64,
    /// Bytes that were sent for it.
    wire_bytes: u64,
    /// Bytes that were not, since the host had them.
    saved_bytes: u64,
    /// `controller`, or the name of a host.
    source: String,
    left_seconds: Option<u64>,
    /// Bytes of the image for which its recipe is made; in the phase `making`.
    made_bytes: Option<u64>,
}

impl TryFrom<v1::TransferStatus> for TransferView {
    type Error = Invalid;

    fn try_from(wire: v1::TransferStatus) -> Result<Self, Invalid> {
        let status = TransferStatus::try_from(wire)?;
        let (phase, made_bytes) = match status.phase {
            Phase::Planning => ("planning", None),
            Phase::Making { made } => ("making", Some(made)),
            Phase::Receiving => ("receiving", None),
            Phase::Done => ("done", None),
        };
        Ok(Self {
            image: status.image.to_string(),
            digest: status.digest.to_string(),
            phase,
            received_bytes: status.received,
            total_bytes: status.total,
            wire_bytes: status.wire,
            saved_bytes: status.saved,
            source: status.source,
            left_seconds: status.left.map(|left| left.as_secs()),
            made_bytes,
        })
    }
}

impl TransferView {
    /// `shop:2: 45% of 97.0 MiB here, 1.2 MiB sent by web-1, 4 s left`; nothing once it is there.
    pub(super) fn text(&self) -> Option<String> {
        let (image, total) = (&self.image, bytes(self.total_bytes));
        let text = match (self.phase, self.made_bytes) {
            ("done", _) => return None,
            (_, Some(made)) => {
                let done = percent(made, self.total_bytes);
                format!("{image}: the controller works out what to send of {total}, {done}% done")
            }
            ("receiving", _) => {
                let here = percent(self.received_bytes, self.total_bytes);
                let (sent, source) = (bytes(self.wire_bytes), &self.source);
                let left = self.left_seconds.map(|left| format!(", {left} s left"));
                let left = left.unwrap_or_default();
                format!("{image}: {here}% of {total} here, {sent} sent by {source}{left}")
            }
            _ => format!("{image}: the controller is asked how it is to come"),
        };
        Some(printable(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(phase: v1::TransferPhase) -> Option<String> {
        let wire = v1::TransferStatus {
            digest: vec![1; 32].into(),
            image: "shop:2".into(),
            phase: phase.into(),
            received: 45 << 20,
            total: 100 << 20,
            wire: 1 << 20,
            saved: 44 << 20,
            source: "web-1".into(),
            left_ms: Some(4000),
            made: 7 << 20,
            ..v1::TransferStatus::default()
        };
        TransferView::try_from(wire).unwrap().text()
    }

    #[test]
    fn each_phase_is_told_of() {
        let going = "shop:2: 45% of 100.0 MiB here, 1.0 MiB sent by web-1, 4 s left";
        assert_eq!(text(v1::TransferPhase::Receiving).as_deref(), Some(going));
        let making = text(v1::TransferPhase::Making).unwrap();
        assert!(making.ends_with("what to send of 100.0 MiB, 7% done"), "{making}");
        assert!(text(v1::TransferPhase::Planning).unwrap().contains("is asked"));
        assert_eq!(text(v1::TransferPhase::Done), None);
    }
}
