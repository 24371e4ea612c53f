//! What is mounted where a process is (proc(5), `/proc/PID/mountinfo`).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The places at which something is mounted, as the container of `leader` sees them; `None` where
/// it has ended, or is not part of `unit`: process numbers are used again.
#[must_use]
pub fn points_of(leader: u32, unit: &str) -> Option<BTreeSet<PathBuf>> {
    let text = fs::read(format!("/proc/{leader}/mountinfo")).ok()?;
    // Looked at afterwards: what was read is of that unit if this still is.
    let groups = fs::read_to_string(format!("/proc/{leader}/cgroup")).ok()?;
    let is_part = groups.lines().any(|line| line.split('/').any(|part| part == unit));
    is_part.then(|| points(&text))
}

/// The mount points in a mountinfo file.
fn points(text: &[u8]) -> BTreeSet<PathBuf> {
    let lines = text.split(|byte| *byte == b'\n');
    let fields = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    fields.map(|field| PathBuf::from(OsString::from_vec(unescaped(field)))).collect()
}

/// Blanks and the like stand there as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let text = b"36 35 98:0 /mnt1 /var/x rw,noatime master:1 - ext3 /dev/root rw\n\
            37 35 0:5 / /a\\040b\\134c rw - tmpfs tmpfs rw\n\
            38 35 0:5 / /odd\\9 rw - tmpfs tmpfs rw\n\n";
        let found: Vec<String> =
            points(text).into_iter().map(|p| p.into_os_string().into_string().unwrap()).collect();
        assert_eq!(found, ["/a b\\c", "/odd\\9", "/var/x"]);
    }

    #[test]
    fn a_process_of_another_unit_is_not_asked() {
        let me = std::process::id();
        assert_eq!(points_of(me, "shoal-instance@no-such.service"), None);
        assert_eq!(points_of(u32::MAX, "x"), None);
    }
}
