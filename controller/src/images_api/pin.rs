//! Pins: images that stay until someone says otherwise.

use shoal_core::time::Timestamp;
use shoal_proto::v1::store::ImageRecord;
use shoal_proto::v1::{ImagePin, SetImagePinRequest, SetImagePinResponse};

use super::{ATTEMPTS, Images, contended};
use crate::audit;
use crate::fleets_api::world::record_digest;
use crate::locks::short;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Stored};

impl Images {
    pub(crate) async fn set_pin(
        &self,
        request: SetImagePinRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<SetImagePinResponse, Refusal> {
        let SetImagePinRequest { name, pinned } = request;
        for _ in 0..ATTEMPTS {
            let stored = self.find(&name).await?.image;
            if stored.record.pin.is_some() != pinned {
                let pin = pinned.then(|| ImagePin { by: who.to_owned(), at_ms: now.0 });
                // The time without need begins when the pin ends.
                let record = ImageRecord { pin, unneeded_ms: None, ..stored.record.clone() };
                let detail = if pinned { "pinned" } else { "unpinned" };
                let mut batch = Batch::new();
                batch.replace(&stored, &record)?;
                let (entry, audited) = audit::entry(&who, "Images/SetPin", &stored.id, detail, now);
                batch.create(&entry, &audited)?;
                match self.records.commit(batch).await {
                    Ok(_) => {}
                    Err(CommitError::Conflict { .. }) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            let digest = record_digest(&stored)?;
            return Ok(SetImagePinResponse { image: Some(self.views().await?.image(&digest)?) });
        }
        Err(contended())
    }
}

/// That an image is not removed while it is pinned.
pub(super) fn check_unpinned(image: &Stored<ImageRecord>) -> Result<(), Refusal> {
    let Some(pin) = &image.record.pin else { return Ok(()) };
    let id: String = image.id.chars().take(12).collect();
    Err(Refusal::Precondition(format!(
        "image {id} is pinned by {}; to remove it all the same, run `shoal image unpin {id}` first",
        short(&pin.by)
    )))
}
