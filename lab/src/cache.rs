//! What is costly to make (a host's root, images), made once and kept, named by its recipe.
//!
//! An entry under its final name is whole: it is made under another name and renamed. Nothing is
//! ever changed in place; a changed recipe is another entry.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The environment variable that names another directory than [`DEFAULT_DIR`].
const DIR_VARIABLE: &str = "SHOAL_LAB_CACHE";
const DEFAULT_DIR: &str = "/var/cache/shoal-lab";

/// The directory of what is kept, `SHOAL_LAB_CACHE` or /var/cache/shoal-lab.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens it, and makes it where it is not there.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn open() -> Result<Self> {
        let dir = std::env::var_os(DIR_VARIABLE).unwrap_or_else(|| DEFAULT_DIR.into());
        Self::at(Path::new(&dir))
    }

    fn at(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)
            .with_context(|| format!("could not make the lab's cache {}", dir.display()))?;
        let dir = fs::canonicalize(dir)?;
        Ok(Self { dir })
    }

    /// The entry `kind` of `recipe`, made by `make` at the path it is given if it is not there.
    ///
    /// `suffix` ends the entry's file name (`.squashfs`), and may be empty. Two makers of the same
    /// entry, also in two processes, wait for one another.
    ///
    /// # Errors
    /// Where `make` fails; nothing is kept of what it made.
    pub fn entry(
        &self,
        kind: &str,
        recipe: &str,
        suffix: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let name = format!("{kind}-{:016x}{suffix}", fingerprint(recipe));
        let path = self.dir.join(&name);
        if path.exists() {
            return Ok(path);
        }
        let _lock = self.lock(&name)?;
        if !path.exists() {
            let unfinished = self.dir.join(format!(".making-{name}"));
            remove(&unfinished)?;
            make(&unfinished).with_context(|| format!("could not make {}", path.display()))?;
            fs::rename(&unfinished, &path)
                .with_context(|| format!("could not finish {}", path.display()))?;
        }
        Ok(path)
    }

    fn lock(&self, name: &str) -> Result<File> {
        let path = self.dir.join(format!(".lock-{name}"));
        let file = File::create(&path)
            .with_context(|| format!("could not make the lock {}", path.display()))?;
        file.lock().with_context(|| format!("could not lock {}", path.display()))?;
        Ok(file)
    }
}

/// Removes what an earlier, broken-off maker left.
fn remove(path: &Path) -> Result<()> {
    let outcome = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// FNV-1a: the same in every build, unlike the standard library's hasher.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn an_entry_is_made_once_for_each_recipe() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let write = |path: &Path| Ok(fs::write(path, "made")?);
        let first = cache.entry("root", "a", ".txt", write).unwrap();
        let again = cache.entry("root", "a", ".txt", |_| bail!("made twice")).unwrap();
        let other = cache.entry("root", "b", ".txt", write).unwrap();
        assert_eq!(first, again);
        assert_ne!(first, other);
        assert_eq!(fs::read_to_string(first).unwrap(), "made");
    }

    #[test]
    fn a_failed_maker_leaves_no_entry_and_its_rest_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let half = cache.entry("root", "a", "", |path| {
            fs::create_dir(path)?;
            fs::write(path.join("half"), "")?;
            bail!("power lost")
        });
        assert!(format!("{:#}", half.unwrap_err()).contains("power lost"));
        let whole = cache.entry("root", "a", "", |path| Ok(fs::create_dir(path)?)).unwrap();
        assert_eq!(fs::read_dir(whole).unwrap().count(), 0);
    }

    #[test]
    fn the_fingerprint_is_the_known_one() {
        assert_eq!(fingerprint("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
