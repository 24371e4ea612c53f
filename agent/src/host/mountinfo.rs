//! What is mounted where a process is (proc(5), `/proc/PID/mountinfo`).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes of the kernel's answer that are read: some ten thousand mounts, far more than anything but
/// an attack on the agent's memory has.
const LONGEST: u64 = 2 << 20;

/// Those of `places` at which nothing is mounted, as the container of `leader` sees them; `None`
/// where it has ended, or is not part of `unit`: process numbers are used again.
pub fn missing<'a>(
    leader: u32,
    unit: &str,
    places: impl Iterator<Item = &'a Path>,
) -> Option<BTreeSet<&'a Path>> {
    let text = whole(&format!("/proc/{leader}/mountinfo"))?;
    // Looked at afterwards: what was read is of that unit if this still is.
    let groups = String::from_utf8(whole(&format!("/proc/{leader}/cgroup"))?).ok()?;
    let is_part = groups.lines().any(|line| line.split('/').any(|part| part == unit));
    is_part.then(|| without_mounts(places.collect(), &text))
}

/// The kernel makes such a file while it is read and can't tell its size before: taken in pieces
/// that grow from nothing it costs several times as much.
fn whole(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(16 << 10);
    let read = File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    // Who mounts as much as that has hidden what is asked for.
    u64::try_from(read).is_ok_and(|read| read < LONGEST).then_some(bytes)
}

/// Those of `places` that are not in a mountinfo file.
fn without_mounts<'a>(mut places: BTreeSet<&'a Path>, text: &[u8]) -> BTreeSet<&'a Path> {
    for line in text.split(|byte| *byte == b'\n') {
        let Some(field) = line.split(|byte| *byte == b' ').nth(4) else { continue };
        let point = if field.contains(&b'\\') {
            Cow::Owned(unescaped(field))
        } else {
            Cow::Borrowed(field)
        };
        places.remove(Path::new(std::ffi::OsStr::from_bytes(&point)));
    }
    places
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
        let places = ["/var/x", "/a b\\c", "/odd\\9", "/var", "/mnt1", "/var/x/y"];
        let left = without_mounts(places.iter().map(Path::new).collect(), text);
        assert_eq!(left, ["/mnt1", "/var", "/var/x/y"].map(Path::new).into());
    }

    #[test]
    fn a_process_of_another_unit_is_not_asked() {
        let me = std::process::id();
        let ask = |leader, unit| missing(leader, unit, [Path::new("/")].into_iter());
        assert_eq!(ask(me, "shoal-instance@no-such.service"), None);
        assert_eq!(ask(u32::MAX, "x"), None);
    }
}
