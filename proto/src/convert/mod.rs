//! Wire messages to core values and back. The way in checks everything once.

mod agent;
mod cordon;
mod event;
mod facts;
mod infra;
mod rollout;
mod settings;
mod spec;
mod status;
mod transfer;

pub use infra::infra_mode;
pub use rollout::{offline_from, rollout_record, rollout_state};
pub use transfer::{recipe_bytes, recipe_id};

/// A message that does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A field that must be there is not.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// An enum that is unspecified, or of a newer version.
    #[error("field {field} has the unknown value {value}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its number.
        value: i32,
    },
    /// A value that breaks its rules.
    #[error("field {field}: {problem}")]
    Value {
        /// The field.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl Invalid {
    /// A value of `field` that breaks the rule that `problem` tells of.
    pub fn value(field: &'static str, problem: impl ToString) -> Self {
        Self::Value { field, problem: problem.to_string() }
    }
}

/// A text of `field` as the type that checks it.
///
/// # Errors
/// Where the text breaks the type's rules.
pub fn parse<T>(field: &'static str, text: &str) -> Result<T, Invalid>
where
    T: std::str::FromStr,
    T::Err: ToString,
{
    text.parse().map_err(|error: T::Err| Invalid::value(field, error))
}

/// A digest of `field`.
///
/// # Errors
/// Where it is not 32 bytes long.
pub fn digest(field: &'static str, bytes: &[u8]) -> Result<shoal_core::image::Digest, Invalid> {
    let bytes: [u8; 32] =
        bytes.try_into().map_err(|_| Invalid::value(field, "a digest has 32 bytes"))?;
    Ok(bytes.into())
}

/// A digest as bytes on the wire.
#[must_use]
pub fn digest_bytes(digest: &shoal_core::image::Digest) -> prost::bytes::Bytes {
    prost::bytes::Bytes::copy_from_slice(digest.as_bytes())
}

pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or(Invalid::Missing(field))
}

/// A duration in whole milliseconds; more than a `u64` of them counts as the most there is.
#[must_use]
pub fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
