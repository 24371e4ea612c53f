//! The coding of a window against its prefix.

use zstd::zstd_safe::{CCtx, CParameter, Strategy, compress_bound, get_error_name};

use super::MakeError;
use crate::number::short;

/// The longest match that is taken at once without looking for a better one.
const TARGET_LENGTH: u32 = 4096;

/// The most memory of the coder for what it has seen: four bytes for each of as many plain bytes.
const CHAIN_LOG: u32 = 25;

/// Codes a window as one zstd frame against the bytes before it.
pub(super) fn code(window: &[u8], prefix: &[u8], level: i32) -> Result<Vec<u8>, MakeError> {
    let failed = |code| MakeError::Coder { reason: get_error_name(code) };
    let mut coder = CCtx::create();
    let total = short(window.len() + prefix.len()).max(1 << 10);
    let log = u32::BITS - (total - 1).leading_zeros();
    let mut parameters = vec![
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(log),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ];
    if level >= 19 {
        parameters.extend([
            CParameter::Strategy(Strategy::ZSTD_btultra2),
            CParameter::TargetLength(TARGET_LENGTH),
            CParameter::ChainLog((log + 1).min(CHAIN_LOG)),
            CParameter::HashLog(log.min(24)),
        ]);
    }
    if log > 20 {
        parameters.push(CParameter::EnableLongDistanceMatching(true));
    }
    for parameter in parameters {
        coder.set_parameter(parameter).map_err(failed)?;
    }
    coder.ref_prefix(prefix).map_err(failed)?;
    let mut coded = Vec::with_capacity(compress_bound(window.len()));
    coder.compress2(&mut coded, window).map_err(failed)?;
    Ok(coded)
}
