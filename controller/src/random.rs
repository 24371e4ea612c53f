//! Names that nobody can guess.

use crate::refusal::Refusal;

/// `N` random bytes in lower-case hex.
///
/// # Errors
/// Where the system has no randomness.
pub(crate) fn hex<const N: usize>() -> Result<String, Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|_| Refusal::Internal("the system gave no randomness".into()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
