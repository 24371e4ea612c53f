//! A number of bytes as a person reads it.

use std::fmt;

/// Shows a byte count in the largest binary unit that keeps it above one, with one decimal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        for (shift, unit) in units {
            let whole = self.0 >> shift;
            if whole > 0 {
                // Below 1024 KiB after the mask, so the multiplication can't overflow.
                let tenths = ((self.0 >> (shift - 10)) & 1023) * 10 / 1024;
                return write!(f, "{whole}.{tenths} {unit}");
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let table = [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (97 << 20, "97.0 MiB"),
            ((3 << 30) + (1 << 29), "3.5 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
