//! Whether the disk has room to write down what an instance is started from.

use std::path::Path;

use crate::paths::text;

/// Bytes that setting up an instance takes at most: its record, which may hold as much as a fleet
/// file, and what is beside it.
const BYTES: u64 = 2 << 20;
/// Files and directories that it takes.
const FILES: u64 = 32;

/// Why nothing can be set up below `dir`; `None` where it can, or where that can't be told.
#[must_use]
pub fn lacking(dir: &Path) -> Option<String> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    let bytes = stat.f_bfree.saturating_mul(stat.f_frsize);
    // A file system that has no fixed number of them says none.
    let files = (stat.f_files > 0).then_some(stat.f_ffree);
    told(dir, bytes, files)
}

fn told(dir: &Path, bytes: u64, files: Option<u64>) -> Option<String> {
    let dir = text(dir);
    if bytes < BYTES {
        let (has, needs) = (bytes >> 10, BYTES >> 10);
        return Some(format!("waits for room in {dir}: {has} KiB are free, {needs} are needed"));
    }
    let files = files.filter(|files| *files < FILES)?;
    Some(format!("waits for room in {dir}: {files} more files fit, {FILES} are needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bytes_and_names() {
        let dir = Path::new("/x");
        assert_eq!(told(dir, BYTES, Some(FILES)), None);
        assert_eq!(told(dir, BYTES, None), None);
        let bytes = told(dir, 4096, Some(FILES)).unwrap();
        assert_eq!(bytes, "waits for room in /x: 4 KiB are free, 2048 are needed");
        let files = told(dir, BYTES, Some(3)).unwrap();
        assert_eq!(files, "waits for room in /x: 3 more files fit, 32 are needed");
        assert_eq!(lacking(Path::new("/")), None);
    }
}
