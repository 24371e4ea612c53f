//! Mounting a file system a second time with its owners shifted, by the kernel's idmapped mounts
//! (open_tree, mount_setattr, move_mount; see mount_setattr(2)), or with less worth than it has.
#![allow(unsafe_code)] // mount_setattr is in neither rustix nor libc; unshare between fork and exec

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::UnshareFlags;
use shoal_core::spec::UIDS_PER_INSTANCE;

/// `struct mount_attr` of the kernel, version 0.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// `MS_PRIVATE`: what is mounted there later is mounted nowhere else, and the other way round.
const PRIVATE: u64 = 1 << 18;

/// Mounts what is at `source` at `target` too, with owner 0 shown as `uid_base` and so on for
/// 65,536 owners.
///
/// # Errors
/// `EINVAL` where the file system can't be idmapped by this kernel.
pub fn mount_shifted(source: &Path, target: &Path, uid_base: u32) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)?;
    shift(&tree, uid_base)?;
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// Shows owner 0 of a mount that is nowhere yet as `uid_base`, and so on for 65,536 owners.
///
/// # Errors
/// `EINVAL` where its file system can't be idmapped by this kernel.
pub fn shift(tree: &OwnedFd, uid_base: u32) -> io::Result<()> {
    let namespace = UserNamespace::new(uid_base)?;
    set_idmap(tree, &namespace.fd)
}

/// Takes the worth of set-uid files and devices from a mount that is nowhere yet, cuts it off from
/// the mount that it was copied from, and closes it where it is not `writable`. What it had been
/// denied before stays denied.
///
/// # Errors
/// Where the system says no.
pub fn restrict(tree: &OwnedFd, writable: bool) -> io::Result<()> {
    let closed = if writable { 0 } else { MOUNT_ATTR_RDONLY };
    let set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | closed;
    set_attributes(tree, &MountAttr { set, clear: 0, propagation: PRIVATE, userns_fd: 0 })
}

/// Whether this kernel can idmap the file system at `source`.
///
/// # Errors
/// Where that could not be found out.
pub fn can_shift(source: &Path) -> io::Result<bool> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)?;
    let namespace = UserNamespace::new(UIDS_PER_INSTANCE)?;
    Ok(set_idmap(&tree, &namespace.fd).is_ok())
}

fn set_idmap(tree: &OwnedFd, namespace: &File) -> io::Result<()> {
    let userns_fd =
        u64::try_from(namespace.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_attributes(tree, &MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns_fd })
}

fn set_attributes(tree: &OwnedFd, attr: &MountAttr) -> io::Result<()> {
    // SAFETY: the empty path and `attr` outlive the call, and the size given is that of `attr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const *attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A user namespace that maps 0… to `uid_base`…, held open by a file after its process ended.
struct UserNamespace {
    fd: File,
}

impl UserNamespace {
    fn new(uid_base: u32) -> io::Result<Self> {
        let mut child = sleeper()?;
        let fd = Self::of(&child, uid_base);
        drop(child.stdin.take());
        let _ = child.kill();
        child.wait()?;
        Ok(Self { fd: fd? })
    }

    fn of(child: &Child, uid_base: u32) -> io::Result<File> {
        let proc = Path::new("/proc").join(child.id().to_string());
        let map = format!("0 {uid_base} {UIDS_PER_INSTANCE}\n");
        fs::write(proc.join("uid_map"), &map)?;
        fs::write(proc.join("gid_map"), &map)?;
        File::open(proc.join("ns/user"))
    }
}

/// A process in a new user namespace, which waits until it is done with.
fn sleeper() -> io::Result<Child> {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: unshare is a bare system call; nothing that fork forbids happens before exec.
    unsafe {
        command
            .pre_exec(|| rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER).map_err(Into::into));
    }
    command.spawn()
}
