//! Names that nobody can guess.

/// `N` random bytes in lower-case hex.
///
/// # Panics
/// Where the kernel has no randomness: then nothing that a controller does would be safe.
pub(crate) fn hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("a kernel that has booted gives randomness");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
