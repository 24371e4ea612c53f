//! Mounts: one per image, and for each machine its root and its data volumes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use shoal_core::image::Digest;

use super::command::{self, CommandError};
use super::manifest::FileId;
use crate::clock;
use crate::files::{
    FileError, failed, make_private_dir, names, read_if_there, remove_file, write_whole,
};
use crate::paths::{Paths, text};
use crate::verified::{self, Signature, Standing};

/// Why something could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The system said no.
    #[error("can't mount {what} at {target}", target = target.display())]
    Mount {
        /// What was to be mounted.
        what: String,
        /// Where.
        target: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system did not let go.
    #[error("can't unmount {target}", target = target.display())]
    Unmount {
        /// Where.
        target: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The image is not staged.
    #[error("image {digest} is not on this host; it comes when the agent has its controller")]
    NotStaged {
        /// The image.
        digest: Digest,
    },
    /// Its file is not what its name says.
    #[error(
        "the file of image {digest} is damaged; the agent fetches it anew when it has its controller"
    )]
    Damaged {
        /// The image.
        digest: Digest,
    },
    /// Its file can't be read.
    #[error(transparent)]
    Unreadable(#[from] shoal_image::DigestError),
    /// Its file was exchanged just then.
    #[error("the file of image {digest} was exchanged while it was mounted; start it again")]
    Exchanged {
        /// The image.
        digest: Digest,
    },
    /// Someone uses it.
    #[error("image {digest} has just been mounted, so its file stays")]
    InUse {
        /// The image.
        digest: Digest,
    },
    /// A directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// mount(8).
    #[error(transparent)]
    Command(#[from] CommandError),
}

pub(crate) fn mount_failed(what: &str, target: &Path) -> impl FnOnce(std::io::Error) -> MountError {
    let (what, target) = (what.to_owned(), target.to_owned());
    move |source| MountError::Mount { what, target, source }
}

/// Mounts an image read-only, once for all its instances, and gives the place, and the file that
/// is mounted there, where that is known.
///
/// # Errors
/// Where the image is not staged, or can't be mounted.
pub fn mount_image(
    paths: &Paths,
    digest: &Digest,
) -> Result<(PathBuf, Option<FileId>), MountError> {
    let target = paths.mount(digest);
    make_private_dir(&target)?;
    let _lock = lock(&paths.mounts())?;
    if is_mount_point(&target)? {
        return Ok((target, mounted_file(paths, digest)));
    }
    let file = paths.images().join(format!("{digest}.squashfs"));
    let Some(before) = file_id(&file)? else {
        return Err(MountError::NotStaged { digest: *digest });
    };
    verify(paths, digest, &file)?;
    let options = "loop,ro,nosuid,nodev";
    command::run("mount", &["-t", "squashfs", "-o", options, &text(&file), &text(&target)])?;
    if file_id(&file)? != Some(before) {
        let_go(&target)?;
        return Err(MountError::Exchanged { digest: *digest });
    }
    let note = serde_json::to_vec(&before).expect("two numbers are plain data");
    write_whole(&paths.mounted_file(digest), &note)?;
    Ok((target, Some(before)))
}

/// Reads a file of which it is not known that it is what its name says: it may have changed while
/// no agent was up to see it.
fn verify(paths: &Paths, digest: &Digest, file: &Path) -> Result<(), MountError> {
    if verified::standing(&paths.images(), digest)? == Standing::Verified {
        return Ok(());
    }
    let before = fs::metadata(file).map_err(failed("look at", file))?;
    let sum = shoal_image::sha256_of(file, |_| ())?;
    if sum.as_bytes() != digest.as_bytes() {
        return Err(MountError::Damaged { digest: *digest });
    }
    Ok(verified::note(&paths.images(), digest, Signature::of(&before), clock::now())?)
}

/// The file that an image's mount was made from; `None` where nobody noted it, and where it was
/// found to be damaged since.
pub fn mounted_file(paths: &Paths, digest: &Digest) -> Option<FileId> {
    let note = read_if_there(&paths.mounted_file(digest)).ok().flatten()?;
    serde_json::from_slice(&note).ok()
}

fn file_id(path: &Path) -> Result<Option<FileId>, FileError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(FileId::of(&metadata))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Unmounts an image; its loop device goes with it.
///
/// # Errors
/// Where it is still in use.
pub fn unmount_image(paths: &Paths, digest: &Digest) -> Result<(), MountError> {
    let target = paths.mount(digest);
    let _lock = lock(&paths.mounts())?;
    unmount(&target)?;
    Ok(forget_mount(paths, digest)?)
}

/// Takes a damaged image away, so that nothing is started from it any more: its mount, which goes
/// on for those that have it, and its file.
///
/// # Errors
/// Where one of them can't be taken away.
pub fn discard_image(paths: &Paths, digest: &Digest) -> Result<(), MountError> {
    let target = paths.mount(digest);
    make_private_dir(&paths.mounts())?;
    let _lock = lock(&paths.mounts())?;
    let_go(&target)?;
    forget_mount(paths, digest)?;
    Ok(remove_file(&paths.images().join(format!("{digest}.squashfs")))?)
}

/// Removes the file of an image that nothing needs. One that is mounted after all stays.
///
/// # Errors
/// Where it can't be removed.
pub fn remove_unused_image(paths: &Paths, digest: &Digest) -> Result<(), MountError> {
    make_private_dir(&paths.mounts())?;
    let _lock = lock(&paths.mounts())?;
    if is_mount_point(&paths.mount(digest))? {
        return Err(MountError::InUse { digest: *digest });
    }
    forget_mount(paths, digest)?;
    Ok(remove_file(&verified::path(&paths.images(), digest))?)
}

fn forget_mount(paths: &Paths, digest: &Digest) -> Result<(), FileError> {
    remove_file(&paths.mounted_file(digest))?;
    let target = paths.mount(digest);
    match fs::remove_dir(&target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", &target)(error))
        }
        _ => Ok(()),
    }
}

/// The images that are mounted.
///
/// # Errors
/// Where the directory can't be read.
pub fn mounted_images(paths: &Paths) -> Result<Vec<Digest>, FileError> {
    let names = names(&paths.mounts())?;
    let digests = names.iter().filter_map(|name| name.parse().ok());
    Ok(digests.filter(|d| is_mount_point(&paths.mount(d)).unwrap_or(false)).collect())
}

/// Holds the lock of all image mounts until it is dropped: two instances that start at once
/// must not mount their image twice.
fn lock(mounts: &Path) -> Result<File, FileError> {
    let path = mounts.join(".lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed("open", &path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| failed("lock", &path)(e.into()))?;
    Ok(file)
}

/// Mounts an overlay of `lower` at `target`, with what changes in `scratch`, whose root belongs
/// to `owner`.
///
/// # Errors
/// Where it can't be mounted.
pub fn mount_overlay(
    lower: &Path,
    scratch: &Path,
    target: &Path,
    owner: u32,
) -> Result<(), MountError> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    for dir in [&upper, &work, &target.to_owned()] {
        make_private_dir(dir)?;
    }
    std::os::unix::fs::chown(&upper, Some(owner), Some(owner))
        .map_err(failed("give away", &upper))?;
    fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(failed("open up", &upper))?;
    let data =
        format!("lowerdir={},upperdir={},workdir={}", text(lower), text(&upper), text(&work));
    let mount = |data: String| {
        let data = std::ffi::CString::new(data).expect("our paths have no NUL");
        rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), data.as_c_str())
    };
    // What changes is discarded before the next start, also after a power cut, so nothing of it
    // has to be on the disk when this is unmounted. Kernels before 5.10 don't know the word.
    let mounted = mount(format!("{data},volatile")).or_else(|_| mount(data.clone()));
    mounted.map_err(|e| mount_failed("the overlay", target)(e.into()))
}

/// What is worth nothing in mounted data.
pub const DATA: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
/// What is worth nothing in an instance's own journal, which the host's root reads.
pub const JOURNAL: MountFlags = DATA.union(MountFlags::NOSYMFOLLOW);

/// Mounts a directory of data at `target` too, with `flags`: neither set-uid files nor devices in
/// it are worth anything.
///
/// # Errors
/// Where it can't be mounted.
pub fn mount_data(source: &Path, target: &Path, flags: MountFlags) -> Result<(), MountError> {
    make_private_dir(target)?;
    let failed = |e: rustix::io::Errno| mount_failed(&text(source), target)(e.into());
    rustix::mount::mount_bind(source, target).map_err(failed)?;
    let flags = MountFlags::BIND | flags;
    let failed = |e: rustix::io::Errno| mount_failed(&text(source), target)(e.into());
    rustix::mount::mount_remount(target, flags, c"").map_err(failed)
}

/// Unmounts what is mounted at `target`, at once where it can, and else as soon as nothing uses
/// it any more: someone's shell in there must not keep an instance from starting.
///
/// # Errors
/// Where it can't be unmounted at all.
pub fn let_go(target: &Path) -> Result<(), MountError> {
    match unmount(target) {
        Err(MountError::Unmount { .. }) => {
            rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
                .map_err(|e| MountError::Unmount { target: target.into(), source: e.into() })
        }
        done => done,
    }
}

/// Unmounts all that is mounted at `target`, one over the other; nothing there is fine.
///
/// # Errors
/// Where it is in use.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    loop {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => {
                return Err(MountError::Unmount { target: target.into(), source: error.into() });
            }
        }
    }
}

/// Whether something is mounted at `path`; not there counts as no.
///
/// # Errors
/// Where it can't be looked at.
pub fn is_mount_point(path: &Path) -> Result<bool, FileError> {
    use std::os::unix::fs::MetadataExt;
    let metadata = |path: &Path| match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    };
    let Some(here) = metadata(path)? else { return Ok(false) };
    let above = metadata(path.parent().unwrap_or(Path::new("/")))?;
    Ok(above.is_some_and(|above| above.dev() != here.dev()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_unseen_is_read_before_it_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        fs::create_dir_all(paths.images()).unwrap();
        let digest = Digest::from(*shoal_image::Sha256Sum::of(b"image").as_bytes());
        let file = verified::path(&paths.images(), &digest);
        fs::write(&file, "image").unwrap();
        verify(&paths, &digest, &file).unwrap();
        assert_eq!(verified::standing(&paths.images(), &digest).unwrap(), Standing::Verified);
        fs::write(&file, "another").unwrap();
        let error = verify(&paths, &digest, &file).unwrap_err();
        assert!(matches!(error, MountError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(&digest.to_string()), "{error}");
    }
}
