//! Mounting a file system a second time with its owners shifted, by the kernel's idmapped mounts
//! (open_tree, mount_setattr, move_mount; see mount_setattr(2)), or with less worth than it has.
#![allow(unsafe_code)] // mount_setattr is in neither rustix nor libc; a child without a program

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
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
        let sleeper = Sleeper::new()?;
        let proc = Path::new("/proc").join(sleeper.0.to_string());
        let map = format!("0 {uid_base} {UIDS_PER_INSTANCE}\n");
        fs::write(proc.join("uid_map"), &map)?;
        fs::write(proc.join("gid_map"), &map)?;
        Ok(Self { fd: File::open(proc.join("ns/user"))? })
    }
}

/// An argument of a system call that is left out.
const NONE: libc::c_long = 0;

/// A process in a new user namespace, which does nothing, and ends when this is dropped.
struct Sleeper(libc::pid_t);

impl Sleeper {
    /// A copy of this process. A program of its own would take longer to come up than all the
    /// rest that is done for a container.
    fn new() -> io::Result<Self> {
        let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
        let parent = rustix::process::getpid().as_raw_pid();
        // SAFETY: without a stack of its own the child is a copy of this thread, as after fork; it
        // makes nothing but bare system calls, which need nothing that other threads may hold.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, NONE, NONE, NONE, NONE) };
        match libc::pid_t::try_from(pid) {
            Ok(0) => sleep_beside(parent),
            Ok(pid) if pid > 0 => Ok(Self(pid)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // SAFETY: bare system calls; the child has not been waited for, so the number is still its.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            while libc::waitpid(self.0, std::ptr::null_mut(), 0) == -1
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
        }
    }
}

/// Sleeps until it is killed, or until `parent` is gone.
fn sleep_beside(parent: libc::pid_t) -> ! {
    // SAFETY: bare system calls.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // It may have gone just before that.
        while libc::getppid() == parent {
            libc::syscall(libc::SYS_ppoll, NONE, NONE, NONE, NONE, NONE);
        }
        libc::_exit(0)
    }
}
