//! What a push came to, or would come to.

use serde::Serialize;
use shoal_core::image::ImageRef;

use super::recipe::Way;
use crate::output::size::bytes;
use crate::view::cost::CostView;
use crate::view::image::ImageView;

#[derive(Debug, Serialize)]
pub(super) struct PushView {
    reference: String,
    /// Bytes that were sent by this command.
    sent_bytes: u64,
    /// Bytes that need not be sent.
    saved_bytes: u64,
    image: ImageView,
    #[serde(skip)]
    size: u64,
}

impl PushView {
    pub(super) fn new(
        reference: &ImageRef,
        sent_bytes: u64,
        saved_bytes: u64,
        size: u64,
        image: ImageView,
    ) -> Self {
        Self { reference: reference.to_string(), sent_bytes, saved_bytes, image, size }
    }

    pub(super) fn text(&self) -> String {
        let Self { reference, sent_bytes, saved_bytes, image, size } = self;
        let how = match (*sent_bytes, *saved_bytes) {
            (0, _) => "already there, nothing sent".to_owned(),
            (sent, 0) => format!("{} sent", bytes(sent)),
            (sent, _) => {
                format!("{} of {} sent, the rest was there", bytes(sent), bytes(*size))
            }
        };
        format!("{reference} is {} ({how})", image.short())
    }
}

/// What would be sent.
#[derive(Debug, Serialize)]
pub(super) struct DryView {
    reference: String,
    size_bytes: u64,
    /// Whether the image is there already.
    present: bool,
    /// Bytes of the image that a broken-off push has left there.
    received_bytes: u64,
    /// What is sent, the recipe's head included.
    wire_bytes: u64,
    /// The images that bytes are taken from.
    bases: Vec<String>,
    cost: CostView,
}

impl DryView {
    pub(super) fn present(reference: &ImageRef, size_bytes: u64) -> Self {
        Self {
            reference: reference.to_string(),
            size_bytes,
            present: true,
            received_bytes: size_bytes,
            wire_bytes: 0,
            bases: Vec::new(),
            cost: CostView::default(),
        }
    }

    pub(super) fn new(reference: &ImageRef, size: u64, received: u64, way: &Way) -> Self {
        let (cost, bases) = match way {
            Way::Whole => (CostView::whole(size, received), Vec::new()),
            Way::Recipe(recipe) => {
                let cost = CostView::from(&recipe.summary).left(recipe.left(received));
                (cost, recipe.bases.clone())
            }
        };
        Self {
            reference: reference.to_string(),
            size_bytes: size,
            present: false,
            received_bytes: received,
            wire_bytes: cost.wire_bytes(),
            bases,
            cost,
        }
    }

    pub(super) fn text(&self, color: bool) -> String {
        let Self { reference, size_bytes, wire_bytes, bases, cost, .. } = self;
        if self.present {
            return format!("the image is there already: a push would set the name {reference}");
        }
        let from = match bases.as_slice() {
            [] => "no image of that name is there".to_owned(),
            bases => format!("the rest is there in {}", bases.join(", ")),
        };
        let (sent, size) = (bytes(*wire_bytes), bytes(*size_bytes));
        format!(
            "{}\n\na push of {reference} would send {sent} of {size}; {from}",
            cost.table(color)
        )
    }
}
