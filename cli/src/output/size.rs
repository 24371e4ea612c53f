//! Numbers of bytes as people read them.

/// In the largest binary unit that keeps it above one: `97.0 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let whole = bytes >> shift;
        if whole > 0 {
            let tenths = ((bytes >> (shift - 10)) & 1023) * 10 / 1024;
            return format!("{whole}.{tenths} {unit}");
        }
    }
    format!("{bytes} B")
}

/// How much of `whole` is `part`, in whole percent.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 100;
    }
    u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(100).min(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let table = [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (97 << 20, "97.0 MiB")];
        for (number, text) in table {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn percents_stay_in_bounds() {
        let table = [
            (0, 0, 100),
            (0, 5, 0),
            (1, 3, 33),
            (3, 3, 100),
            (9, 3, 100),
            (u64::MAX, u64::MAX, 100),
        ];
        for (part, whole, expected) in table {
            assert_eq!(percent(part, whole), expected, "{part}/{whole}");
        }
    }
}
