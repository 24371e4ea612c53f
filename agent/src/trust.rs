//! Holding signatures against the keys that the host's root pinned, and remembering what was
//! taken into use (`shoal_core::trust` decides).
//!
//! Asked twice: by each observation, so that nothing is fetched or stopped for an image that may
//! not run, and by each start of an instance before it mounts, so that neither a record that was
//! tampered with nor an agent that was gone round starts one. Only a start remembers: an image that
//! was just brought here has not been used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shoal_core::host::HostSpec;
use shoal_core::image::{Digest, PinnedImage, SignedManifest};
use shoal_core::name::{HostName, ImageName};
use shoal_core::time::Timestamp;
use shoal_core::trust::{
    Accepted, Checked, Distrust, HostTrust, KeyId, Manifest, Permit, PublicKey, Trust,
};
use shoal_image::{SignatureError, UnverifiedError};

use crate::files::{FileError, failed, names, read_if_there, write_whole};
use crate::paths::Paths;

/// The newest form of the file that this agent knows.
const VERSION: u32 = 1;

/// Why an image is not taken into use.
#[derive(Debug, thiserror::Error)]
pub enum UntrustedError {
    /// The host does not trust it.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// What was accepted before can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// What was accepted before is not what this agent writes.
    #[error(
        "{path} is damaged, and tells which releases of signed images this host has run; put it \
         back from a backup, or remove it to begin anew: then older releases may run again",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It is of a form that this agent does not know.
    #[error("{path} has version {version}, this agent knows {VERSION}; upgrade the agent", path = path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// What is kept on the disk.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    names: Accepted,
}

/// What a host trusts, with the signatures that were looked at.
#[derive(Debug)]
pub struct Signatures {
    paths: Paths,
    host: HostName,
    trust: Trust,
    /// Verifying takes a while, and the same is asked at every observation.
    checked: Mutex<BTreeMap<(ImageName, SignedManifest), Checked>>,
}

impl Signatures {
    /// For the host called `host`, whose root trusts `trust`.
    #[must_use]
    pub fn new(paths: Paths, host: HostName, trust: Trust) -> Self {
        Self { paths, host, trust, checked: Mutex::default() }
    }

    /// The images of a desired state that may not run here, with why.
    #[must_use]
    pub fn untrusted(&self, wanted: &HostSpec, now: Timestamp) -> BTreeMap<PinnedImage, String> {
        if self.trust == Trust::default() {
            return BTreeMap::new();
        }
        let used = wanted.instances.iter().map(|instance| &instance.config.image);
        let images: BTreeSet<&PinnedImage> = used.chain(&wanted.stage).collect();
        let accepted = read(&self.paths);
        let found = images.iter().filter_map(|image| {
            let checked = self.checked(image);
            let why = match &accepted {
                Ok(accepted) => self.judge(image, checked.as_ref(), accepted, now).err()?,
                // What has no key pinned does not depend on it.
                Err(_) if self.trust.keys_for(&image.reference.name).is_none() => {
                    let none = Accepted::default();
                    self.judge(image, checked.as_ref(), &none, now).err()?
                }
                Err(error) => crate::chain(error),
            };
            Some(((*image).clone(), why))
        });
        let found = found.collect();
        self.forget_others(&images);
        found
    }

    fn judge(
        &self,
        image: &PinnedImage,
        checked: Option<&Checked>,
        accepted: &Accepted,
        now: Timestamp,
    ) -> Result<Permit, String> {
        let judge = HostTrust { host: &self.host, trust: &self.trust, accepted, now };
        judge.permits(image, checked).map_err(|distrust| crate::chain(&distrust))
    }

    fn checked(&self, image: &PinnedImage) -> Option<Checked> {
        let signed = image.signed.as_deref()?;
        let key = (image.reference.name.clone(), signed.clone());
        let mut known = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = known.entry(key).or_insert_with(|| check(&self.trust, image, signed));
        Some(checked.clone())
    }

    fn forget_others(&self, images: &BTreeSet<&PinnedImage>) {
        let wanted = |name: &ImageName, signed: &SignedManifest| {
            let same = |image: &&&PinnedImage| {
                image.reference.name == *name && image.signed.as_deref() == Some(signed)
            };
            images.iter().any(|image| same(&image))
        };
        let mut known = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(name, signed), _| wanted(name, signed));
    }
}

/// Asks whether `image` may be mounted on `host`, whose root trusts `trust`, and remembers that it
/// was taken into use.
///
/// # Errors
/// Where it may not, or where that can't be known or remembered.
pub fn take_into_use(
    paths: &Paths,
    host: &HostName,
    trust: &Trust,
    image: &PinnedImage,
    now: Timestamp,
) -> Result<(), UntrustedError> {
    if *trust == Trust::default() {
        return Ok(());
    }
    let checked = image.signed.as_deref().map(|signed| check(trust, image, signed));
    let _lock = lock(paths)?;
    let accepted = read_for(paths, trust, image)?;
    let judge = HostTrust { host, trust, accepted: &accepted, now };
    let Permit::Signed(manifest) = judge.permits(image, checked.as_ref())? else { return Ok(()) };
    match accepted.with(&manifest, &here(paths)?, now) {
        Some(after) => Ok(write(paths, after)?),
        None => Ok(()),
    }
}

/// What was accepted; what has no key pinned does not depend on it.
fn read_for(paths: &Paths, trust: &Trust, image: &PinnedImage) -> Result<Accepted, UntrustedError> {
    match trust.keys_for(&image.reference.name) {
        Some(_) => read(paths),
        None => Ok(Accepted::default()),
    }
}

/// What comes of holding `signed` against the keys that are pinned for the image's name.
fn check(trust: &Trust, image: &PinnedImage, signed: &SignedManifest) -> Checked {
    let keys = trust.keys_for(&image.reference.name).unwrap_or_default();
    let key = |key: &PublicKey| shoal_image::PublicKey::parse(key.as_str()).ok();
    let keys: Vec<_> = keys.iter().filter_map(key).collect();
    let manifest = signed.manifest().as_bytes();
    match shoal_image::Manifest::verified(manifest, signed.signature(), &keys) {
        Ok((key, manifest)) => match domain(manifest) {
            Ok(manifest) => Checked::Signed { key: KeyId(key), manifest },
            Err(problem) => Checked::Invalid(problem),
        },
        Err(UnverifiedError::Signature(SignatureError::OtherKey { key })) => {
            Checked::OtherKey(KeyId(key))
        }
        Err(error) => Checked::Invalid(crate::chain(&error)),
    }
}

fn domain(manifest: shoal_image::Manifest) -> Result<Manifest, String> {
    let shoal_image::Manifest { name, tag, digest, size, release, expires, .. } = manifest;
    let reference = format!("{name}:{tag}").parse().map_err(|e| crate::chain(&e))?;
    let expires = expires.map(|at| Timestamp(u64::try_from(at.as_millisecond()).unwrap_or(0)));
    Ok(Manifest { reference, digest: (*digest.as_bytes()).into(), size, release, expires })
}

fn read(paths: &Paths) -> Result<Accepted, UntrustedError> {
    let path = paths.accepted();
    let Some(bytes) = read_if_there(&path)? else { return Ok(Accepted::default()) };
    let parsed = serde_json::from_slice::<Content>(&bytes);
    let Content { version, names } =
        parsed.map_err(|source| UntrustedError::Damaged { path: path.clone(), source })?;
    if version > VERSION {
        return Err(UntrustedError::TooNew { path, version });
    }
    Ok(names)
}

fn write(paths: &Paths, names: Accepted) -> Result<(), FileError> {
    let content = Content { version: VERSION, names };
    let bytes = serde_json::to_vec_pretty(&content).expect("names and numbers are plain data");
    write_whole(&paths.accepted(), &bytes)
}

/// Several instances start at once, and each reads and writes.
fn lock(paths: &Paths) -> Result<File, FileError> {
    let path = paths.accepted().with_extension("lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(failed("open", &path))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| failed("lock", &path)(e.into()))?;
    Ok(lock)
}

/// The images whose files are on the host.
fn here(paths: &Paths) -> Result<BTreeSet<Digest>, FileError> {
    let names = names(&paths.images())?;
    let digest = |name: &String| name.strip_suffix(".squashfs")?.parse().ok();
    Ok(names.iter().filter_map(digest).collect())
}

#[cfg(test)]
mod tests;
