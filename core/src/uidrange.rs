//! Which of the host's user numbers an instance gets as its own.
//!
//! The ranges are systemd's container ranges (uids 524288 to 1879048191, 65536 each; see
//! systemd's UIDS-GIDS page). An instance's place is found from its machine's name, so that it is
//! nearly always the same one, and moves on where another instance is already there.

use std::collections::BTreeSet;

use crate::name::MachineName;
use crate::spec::UIDS_PER_INSTANCE;

const FIRST: u32 = 524_288;
const RANGES: u32 = (1_879_048_192 - FIRST) / UIDS_PER_INSTANCE;

/// The first user number for `machine`, whose range none of `taken` has; `None` when all 28,664
/// are taken.
#[must_use]
pub fn choose(machine: &MachineName, taken: &BTreeSet<u32>) -> Option<u32> {
    let start = fnv1a(machine.as_str()) % RANGES;
    (0..RANGES)
        .map(|step| FIRST + (start + step) % RANGES * UIDS_PER_INSTANCE)
        .find(|base| !taken.contains(base))
}

/// FNV-1a, 32 bits: spreads names well, and is the same on every host and version.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_stable_apart_and_systemds() {
        let machine: MachineName = "belenios-main".parse().unwrap();
        let first = choose(&machine, &BTreeSet::new()).unwrap();
        assert_eq!(choose(&machine, &BTreeSet::new()), Some(first));
        let second = choose(&machine, &BTreeSet::from([first])).unwrap();
        assert!(first.abs_diff(second) >= UIDS_PER_INSTANCE);
        assert!(first >= FIRST && u64::from(first) + 65_536 <= 1_879_048_192);
        assert_eq!(first % UIDS_PER_INSTANCE, 0);
    }
}
