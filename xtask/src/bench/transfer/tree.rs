//! The plain files that the image pairs are made of: root directories of Debian, by mmdebstrap.
//!
//! They are made once and kept in the lab's cache, so they show the archive of the day on which
//! they were made. The release (`bookworm`) is one state of Debian 12, and the release with its
//! security and other updates a later one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use shoal_lab::Cache;

use super::tool::{nice, run, text};

/// To be raised when the code of this module changes what it makes; texts and lists count anyway.
const REVISION: u32 = 1;

/// What is left out of images, as is usual.
const LEFT_OUT: &[&str] = &["doc", "man", "locale", "info"];

/// A small web server with what belongs to it. Many of these packages get security updates.
const PACKAGES: &[&str] = &[
    "apache2",
    "ca-certificates",
    "curl",
    "dbus",
    "git",
    "gnupg",
    "iproute2",
    "libxml2",
    "openssh-client",
    "openssl",
    "perl",
    "php8.2-cli",
    "postgresql-client-15",
    "python3",
    "redis-server",
    "rsyslog",
    "systemd",
    "systemd-sysv",
    "tzdata",
];

/// About 85 MB of plain files that have much in common: the programs of one package are linked
/// from the same parts, and the PHP is that of the command that is there already.
const ADDED: &[&str] = &["mariadb-client", "php8.2-fpm", "vim-tiny"];

const RELEASE: &str = "deb http://deb.debian.org/debian bookworm main";
const UPDATES: &[&str] = &[
    "deb http://deb.debian.org/debian bookworm-updates main",
    "deb http://deb.debian.org/debian-security bookworm-security main",
];

/// What differs in the image of a small change, beside its one binary: a line more in each.
const SETTINGS: &[&str] = &[
    "etc/apache2/ports.conf",
    "etc/php/8.2/cli/php.ini",
    "etc/redis/redis.conf",
    "etc/rsyslog.conf",
    "etc/ssl/openssl.cnf",
];

/// The binary that is new in a small change, of about 5 MB.
const BINARY: &str = "usr/lib/x86_64-linux-gnu/libcrypto.so.3";

/// How one image came out of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One binary and a few settings.
    Small,
    /// The security updates of many packages.
    Security,
    /// Packages that were not there.
    Added,
    /// The same files, each written anew.
    Times,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Small, Self::Security, Self::Added, Self::Times];

    /// Its name in file names.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Security => "security",
            Self::Added => "added",
            Self::Times => "times",
        }
    }
}

/// The root directories, in the cache.
#[derive(Debug)]
pub(super) struct Trees {
    dir: PathBuf,
    cache: Cache,
}

impl Trees {
    /// Makes those that cost much, where they are not there yet (two minutes).
    pub(super) fn open() -> Result<Self> {
        let cache = Cache::open()?;
        let dir = cache.entry("transfer-trees", &Self::recipe(), "", |dir| {
            eprintln!("bench: making the plain files of the image pairs, once");
            let began = SystemTime::now();
            fs::create_dir_all(dir)?;
            let updated = [&[RELEASE], UPDATES].concat();
            bootstrap(&dir.join("old"), PACKAGES, &[RELEASE], began)?;
            bootstrap(&dir.join("security"), PACKAGES, &updated, began)?;
            bootstrap(&dir.join("added"), &[PACKAGES, ADDED].concat(), &[RELEASE], began)
        })?;
        Ok(Self { dir, cache })
    }

    /// What the trees are made from, for the keys of what is made from them.
    pub(super) fn recipe() -> String {
        format!(
            "{REVISION} {LEFT_OUT:?} {PACKAGES:?} {ADDED:?} {RELEASE} {UPDATES:?} {SETTINGS:?} {BINARY}"
        )
    }

    /// Where they are kept, and what is made from them.
    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The files of the image that all others came out of.
    pub(super) fn old(&self) -> PathBuf {
        self.dir.join("old")
    }

    /// Gives the files of an image to `with`.
    pub(super) fn with<T>(&self, kind: Kind, with: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let change: fn(&Self, &Path) -> Result<()> = match kind {
            Kind::Security | Kind::Added => return with(&self.dir.join(kind.name())),
            Kind::Small => Self::change_a_little,
            Kind::Times => Self::write_anew,
        };
        let parent = self.dir.parent().context("the cache has no directory")?;
        let copy = tempfile::tempdir_in(parent)?;
        let root = copy.path().join("root");
        run(nice("cp").args(["-a", "--reflink=auto"]).args([&self.old(), &root]))?;
        change(self, &root)?;
        with(&root)
    }

    /// From which version a package goes to which by its update.
    pub(super) fn versions(&self, package: &str) -> Result<String> {
        let version = |tree: &str| -> Result<String> {
            let root = format!("--admindir={}", text(&self.dir.join(tree).join("var/lib/dpkg"))?);
            let show = ["--show", "--showformat=${Version}", package];
            run(nice("dpkg-query").arg(root).args(show))
        };
        let (old, new) = (version("old")?, version("security")?);
        ensure!(old != new, "{package} has no security update at this time: choose another one");
        Ok(format!("{package} {old} → {new}"))
    }

    /// How many packages have an update.
    pub(super) fn updates(&self) -> Result<usize> {
        let list = |tree: &str| -> Result<String> {
            let root = format!("--admindir={}", text(&self.dir.join(tree).join("var/lib/dpkg"))?);
            run(nice("dpkg-query").arg(root).arg("--show"))
        };
        let old = list("old")?;
        let old: Vec<&str> = old.lines().collect();
        Ok(list("security")?.lines().filter(|line| !old.contains(line)).count())
    }

    fn change_a_little(&self, root: &Path) -> Result<()> {
        let new = self.dir.join("security").join(BINARY);
        run(nice("cp").args(["-a", "--remove-destination"]).args([&new, &root.join(BINARY)]))?;
        for file in SETTINGS {
            let path = root.join(file);
            let failed = || format!("can't change {}", path.display());
            let old = fs::read(&path).with_context(failed)?;
            let line = b"# Changed for the new image.\n";
            let middle = old.len() / 2;
            let middle = old[middle..].iter().position(|&byte| byte == b'\n').unwrap_or(0) + middle;
            let new = [&old[..=middle], line, &old[middle + 1..]].concat();
            fs::write(&path, new).with_context(failed)?;
        }
        Ok(())
    }

    /// New times for all files, as a copy of the tree gives them that took a few seconds.
    fn write_anew(&self, root: &Path) -> Result<()> {
        const BEGAN: u64 = 1_750_000_000;
        const IN_A_SECOND: usize = 3000;
        let mut find = nice("find");
        let paths = run(find.args([".", "-mindepth", "1"]).current_dir(root))?;
        let mut paths: Vec<&str> = paths.lines().collect();
        paths.sort_unstable();
        for (second, some) in (BEGAN..).zip(paths.chunks(IN_A_SECOND)) {
            let mut touch = nice("touch");
            touch.arg("--no-dereference").arg(format!("--date=@{second}")).arg("--");
            run(touch.args(some).current_dir(root))?;
        }
        Ok(())
    }
}

/// Makes a minimal Debian of these sources at `root`. What the installation wrote gets the time
/// `began`, whenever it was written, as an image build does that wants its images alike.
fn bootstrap(root: &Path, packages: &[&str], sources: &[&str], began: SystemTime) -> Result<()> {
    let mut command = nice("mmdebstrap");
    command
        .args(["--quiet", "--mode=root", "--format=directory", "--variant=minbase"])
        .args(LEFT_OUT.iter().map(|dir| format!("--dpkgopt=path-exclude=/usr/share/{dir}/*")))
        .arg(format!("--include={}", packages.join(",")))
        .arg("bookworm")
        .arg(root)
        .args(sources);
    run(&mut command).context("can't make a Debian; is a mirror reachable?")?;
    for file in ["etc/machine-id", "etc/resolv.conf", "etc/hostname"] {
        fs::write(root.join(file), "")?;
    }
    for log in ["var/log/dpkg.log", "var/log/alternatives.log", "var/cache/ldconfig/aux-cache"] {
        let path = root.join(log);
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    let seconds = began.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let since = format!("@{seconds}");
    let mut find = nice("find");
    find.arg(root).args(["-newermt", &since, "-exec", "touch", "--no-dereference"]);
    run(find.arg(format!("--date={since}")).args(["{}", "+"])).map(drop)
}
