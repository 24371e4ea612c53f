//! The processor that a program is made for, out of its ELF header.

/// How much of a program has to be read.
pub(crate) const HEADER_LEN: u64 = 64;

/// The architecture by systemd's name for it (`ConditionArchitecture=`); `None` for what is not an
/// ELF program, or for a processor without a name.
pub(crate) fn architecture(header: &[u8]) -> Option<&'static str> {
    let header: &[u8; 20] = header.first_chunk()?;
    if !header.starts_with(b"\x7fELF") {
        return None;
    }
    let wide = match header[4] {
        1 => false,
        2 => true,
        _ => return None,
    };
    let machine = [header[18], header[19]];
    match header[5] {
        1 => little_endian(u16::from_le_bytes(machine), wide),
        2 => big_endian(u16::from_be_bytes(machine), wide),
        _ => None,
    }
}

fn little_endian(machine: u16, wide: bool) -> Option<&'static str> {
    match (machine, wide) {
        (3, false) => Some("x86"),
        (62, true) => Some("x86-64"),
        (40, false) => Some("arm"),
        (183, true) => Some("arm64"),
        (243, false) => Some("riscv32"),
        (243, true) => Some("riscv64"),
        (258, true) => Some("loongarch64"),
        (21, true) => Some("ppc64-le"),
        (20, false) => Some("ppc-le"),
        (8, false) => Some("mips-le"),
        (8, true) => Some("mips64-le"),
        _ => None,
    }
}

fn big_endian(machine: u16, wide: bool) -> Option<&'static str> {
    match (machine, wide) {
        (22, true) => Some("s390x"),
        (22, false) => Some("s390"),
        (21, true) => Some("ppc64"),
        (20, false) => Some("ppc"),
        (8, false) => Some("mips"),
        (8, true) => Some("mips64"),
        (40, false) => Some("arm-be"),
        (183, true) => Some("arm64-be"),
        (43, true) => Some("sparc64"),
        (2, false) => Some("sparc"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(class: u8, order: u8, machine: u16) -> Vec<u8> {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(b"\x7fELF");
        header[4] = class;
        header[5] = order;
        let machine = if order == 1 { machine.to_le_bytes() } else { machine.to_be_bytes() };
        header[18..20].copy_from_slice(&machine);
        header
    }

    #[test]
    fn processors_have_systemd_s_names() {
        let table = [
            (2, 1, 62, Some("x86-64")),
            (1, 1, 3, Some("x86")),
            (2, 1, 183, Some("arm64")),
            (1, 1, 40, Some("arm")),
            (2, 1, 243, Some("riscv64")),
            (2, 1, 21, Some("ppc64-le")),
            (2, 2, 22, Some("s390x")),
            (1, 1, 62, None),
            (2, 1, 9999, None),
            (3, 1, 62, None),
            (2, 3, 62, None),
        ];
        for (class, order, machine, expected) in table {
            assert_eq!(architecture(&header(class, order, machine)), expected);
        }
    }

    #[test]
    fn other_files_have_none() {
        assert_eq!(architecture(b"#!/bin/sh\necho a longer script\n"), None);
        assert_eq!(architecture(b"\x7fELF"), None);
        assert_eq!(architecture(b""), None);
    }
}
