//! What it takes to send an image, by kind.

use serde::Serialize;
use shoal_image::Summary;
use shoal_proto::v1;

use crate::output::size::bytes;
use crate::output::table::Table;

/// Bytes of the image, and bytes that are sent for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Part {
    bytes: u64,
    wire_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct CostView {
    /// What is there already, and where it goes.
    copied: Part,
    /// Blocks that are made anew from what differs in them.
    rebuilt: Part,
    rebuilt_blocks: u64,
    /// What goes as it is.
    literal: Part,
    /// The tables of files and directories.
    metadata: Part,
    wire_bytes: u64,
}

impl CostView {
    /// Of an image that goes as it is from some byte on.
    pub(crate) fn whole(size: u64, received: u64) -> Self {
        let wire_bytes = size.saturating_sub(received);
        let literal = Part { bytes: wire_bytes, wire_bytes };
        Self { literal, wire_bytes, ..Self::default() }
    }

    pub(crate) fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// The same where a part was sent before, of which so many bytes are left to send.
    pub(crate) fn left(mut self, wire_bytes: u64) -> Self {
        self.wire_bytes = wire_bytes;
        self
    }

    pub(crate) fn table(&self, color: bool) -> String {
        let mut table = Table::new(&["KIND", "IN THE IMAGE", "SENT", ""]);
        let rebuilt = format!("{} blocks made anew from what differs", self.rebuilt_blocks);
        let rows = [
            ("copied", self.copied, "there already".to_owned()),
            ("rebuilt", self.rebuilt, rebuilt),
            ("literal", self.literal, "as it is".to_owned()),
            ("metadata", self.metadata, "tables of files and directories".to_owned()),
        ];
        for (kind, part, what) in rows {
            if part != Part::default() {
                let (image, wire) = (bytes(part.bytes), bytes(part.wire_bytes));
                table.row(vec![kind.into(), image.into(), wire.into(), what.into()]);
            }
        }
        table.render(color, "nothing")
    }
}

impl From<&Summary> for CostView {
    fn from(summary: &Summary) -> Self {
        let Summary { copied, rebuilt, rebuilt_blocks, literal, metadata, wire, wire_bytes } =
            *summary;
        let part = |bytes, wire_bytes| Part { bytes, wire_bytes };
        Self {
            copied: part(copied, wire.copied),
            rebuilt: part(rebuilt, wire.rebuilt),
            rebuilt_blocks,
            literal: part(literal, wire.literal),
            metadata: part(metadata, wire.metadata),
            wire_bytes,
        }
    }
}

impl From<v1::TransferCost> for CostView {
    fn from(wire: v1::TransferCost) -> Self {
        let v1::TransferCost {
            copied,
            rebuilt,
            literal,
            metadata,
            rebuilt_blocks,
            copied_wire,
            rebuilt_wire,
            literal_wire,
            metadata_wire,
            wire_bytes,
        } = wire;
        let part = |bytes, wire_bytes| Part { bytes, wire_bytes };
        Self {
            copied: part(copied, copied_wire),
            rebuilt: part(rebuilt, rebuilt_wire),
            rebuilt_blocks,
            literal: part(literal, literal_wire),
            metadata: part(metadata, metadata_wire),
            wire_bytes,
        }
    }
}
