//! How images are coming to a host.

use std::time::Duration;

use prost::bytes::Bytes;
use shoal_core::transfer::{Phase, RecipeId, TransferStatus};

use super::{Invalid, digest, digest_bytes, millis, parse};
use crate::v1;

impl TryFrom<v1::TransferStatus> for TransferStatus {
    type Error = Invalid;

    fn try_from(wire: v1::TransferStatus) -> Result<Self, Invalid> {
        let v1::TransferStatus {
            digest: bytes,
            image,
            phase,
            received,
            total,
            wire,
            saved,
            source,
            left_ms,
            recipe,
            made,
        } = wire;
        Ok(Self {
            digest: digest("digest", &bytes)?,
            image: parse("image", &image)?,
            phase: phase_from(phase, made)?,
            received,
            total,
            wire,
            saved,
            source,
            left: left_ms.map(Duration::from_millis),
            recipe: if recipe.is_empty() { None } else { Some(recipe_id("recipe", &recipe)?) },
        })
    }
}

impl From<TransferStatus> for v1::TransferStatus {
    fn from(status: TransferStatus) -> Self {
        let TransferStatus {
            digest,
            image,
            phase,
            received,
            total,
            wire,
            saved,
            source,
            left,
            recipe,
        } = status;
        let (phase, made) = phase_to(phase);
        Self {
            digest: digest_bytes(&digest),
            image: image.to_string(),
            phase: phase.into(),
            received,
            total,
            wire,
            saved,
            source,
            left_ms: left.map(millis),
            recipe: recipe.map(|id| recipe_bytes(&id)).unwrap_or_default(),
            made,
        }
    }
}

/// The id of a recipe in `field`.
///
/// # Errors
/// Where it is not 32 bytes long.
pub fn recipe_id(field: &'static str, bytes: &[u8]) -> Result<RecipeId, Invalid> {
    let bytes: [u8; 32] =
        bytes.try_into().map_err(|_| Invalid::value(field, "a recipe's id has 32 bytes"))?;
    Ok(bytes.into())
}

/// The id of a recipe as bytes on the wire.
#[must_use]
pub fn recipe_bytes(id: &RecipeId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn phase_from(wire: i32, made: u64) -> Result<Phase, Invalid> {
    Ok(match v1::TransferPhase::try_from(wire) {
        Ok(v1::TransferPhase::Planning) => Phase::Planning,
        Ok(v1::TransferPhase::Making) => Phase::Making { made },
        Ok(v1::TransferPhase::Receiving) => Phase::Receiving,
        Ok(v1::TransferPhase::Done) => Phase::Done,
        Ok(v1::TransferPhase::Unspecified) | Err(_) => {
            return Err(Invalid::Unknown { field: "phase", value: wire });
        }
    })
}

fn phase_to(phase: Phase) -> (v1::TransferPhase, u64) {
    match phase {
        Phase::Planning => (v1::TransferPhase::Planning, 0),
        Phase::Making { made } => (v1::TransferPhase::Making, made),
        Phase::Receiving => (v1::TransferPhase::Receiving, 0),
        Phase::Done => (v1::TransferPhase::Done, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_wire() {
        for phase in [Phase::Planning, Phase::Making { made: 7 }, Phase::Receiving, Phase::Done] {
            let recipe = (phase == Phase::Receiving).then(|| [5; 32].into());
            let status = TransferStatus {
                digest: [3; 32].into(),
                image: "app:1".parse().unwrap(),
                phase,
                received: 4,
                total: 5,
                wire: 6,
                saved: 7,
                source: "controller".into(),
                left: recipe.map(|_| Duration::from_millis(8)),
                recipe,
            };
            let wire = v1::TransferStatus::from(status.clone());
            assert_eq!(TransferStatus::try_from(wire), Ok(status));
        }
    }
}
