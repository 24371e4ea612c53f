//! Other ways to bring the new image to a host that has the old one.
//!
//! Each is used as its own documentation says, with its defaults where none is named. Of those
//! that go over a wire themselves the bytes on it are counted, with all overhead; of the others
//! their file counts, as if it went over for nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::tool::{Usage, measured, nice, run, text};
use super::wire::{self, SERVER, Wire};

const RSYNC_PORT: u16 = 8730;

/// An image pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) old: &'a Path,
    pub(super) new: &'a Path,
}

/// What a way costs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Bytes to the host and back.
    pub(super) bytes: u64,
    /// Of making it, once for all hosts; `None` where it is made for each anew.
    pub(super) made: Option<Usage>,
    /// Of the host.
    pub(super) applied: Usage,
}

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Rsync,
    Casync,
    Zsync,
    Xdelta3,
    Bsdiff,
    Zstd,
}

impl Peer {
    /// Those that find out by themselves what a host has: what Shoal is measured against.
    pub(super) const OF_FILES: [Self; 3] = [Self::Rsync, Self::Casync, Self::Zsync];
    /// Those that make a file of differences out of both.
    pub(super) const OF_PAIRS: [Self; 3] = [Self::Xdelta3, Self::Bsdiff, Self::Zstd];

    /// What it is called in a table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rsync => "rsync",
            Self::Casync => "casync",
            Self::Zsync => "zsync",
            Self::Xdelta3 => "xdelta3 -9 -S djw",
            Self::Bsdiff => "bsdiff",
            Self::Zstd => "zstd -19 --long --patch-from",
        }
    }

    /// Brings the new image to a host; what it made is compared with it.
    ///
    /// # Errors
    /// Where it is not the new image, or the program fails.
    pub(super) fn cost(self, pair: Pair<'_>) -> Result<Cost> {
        let dir = tempfile::tempdir_in("/var/tmp")?;
        let way = Way { dir: dir.path(), pair };
        let cost = match self {
            Self::Rsync => way.rsync(),
            Self::Casync => way.casync(),
            Self::Zsync => way.zsync(),
            Self::Xdelta3 => way.xdelta3(),
            Self::Bsdiff => way.bsdiff(),
            Self::Zstd => way.zstd(),
        };
        let cost = cost.with_context(|| self.name())?;
        let same = run(nice("cmp").args([&dir.path().join("out"), pair.new]));
        same.with_context(|| format!("{} made something else", self.name()))?;
        Ok(cost)
    }
}

/// One run, in a directory of its own; the new image comes to be at `out` there.
struct Way<'a> {
    dir: &'a Path,
    pair: Pair<'a>,
}

impl Way<'_> {
    fn rsync(&self) -> Result<Cost> {
        let (wire, out) = (Wire::new()?, self.dir.join("out"));
        fs::copy(self.pair.old, &out)?;
        let (place, name) = (self.pair.new.parent(), self.pair.new.file_name());
        let (Some(place), Some(name)) = (place, name) else { bail!("the image has no name") };
        let config = format!(
            "port = {RSYNC_PORT}\naddress = {SERVER}\nuse chroot = no\nuid = 0\ngid = 0\n\
             [served]\npath = {}\n",
            place.display()
        );
        let path = self.dir.join("rsyncd.conf");
        fs::write(&path, config)?;
        let mut daemon = wire.at_server("rsync");
        daemon.args(["--daemon", "--no-detach", "--config"]).arg(&path);
        let _served = wire.serve(&mut daemon, RSYNC_PORT)?;
        let name = text(Path::new(name))?;
        let url = format!("rsync://{SERVER}:{RSYNC_PORT}/served/{name}");
        let fetch = ["--ignore-times", &url, text(&out)?];
        self.over(&wire, None, "rsync", &fetch)
    }

    fn casync(&self) -> Result<Cost> {
        let served = self.serve_new()?;
        let (store, index) = (served.join("store"), served.join("new.caibx"));
        let store_option = format!("--store={}", text(&store)?);
        let made =
            self.here("casync", &["make", &store_option, text(&index)?, text(self.pair.new)?])?;
        let wire = Wire::new()?;
        let _served = wire::nginx(&wire, self.dir, &served)?;
        let seed = format!("--seed={}", text(self.pair.old)?);
        let store = format!("--store=http://{SERVER}:8080/store");
        let index = format!("http://{SERVER}:8080/new.caibx");
        let out = self.dir.join("out");
        self.over(&wire, Some(made), "casync", &["extract", &store, &seed, &index, text(&out)?])
    }

    fn zsync(&self) -> Result<Cost> {
        let served = self.serve_new()?;
        let control = served.join("new.zsync");
        let url = format!("http://{SERVER}:8080/new.squashfs");
        let made =
            self.here("zsyncmake", &["-u", &url, "-o", text(&control)?, text(self.pair.new)?])?;
        let wire = Wire::new()?;
        let _served = wire::nginx(&wire, self.dir, &served)?;
        let control = format!("http://{SERVER}:8080/new.zsync");
        let out = self.dir.join("out");
        let fetch = ["-q", "-i", text(self.pair.old)?, "-o", text(&out)?, &control];
        self.over(&wire, Some(made), "zsync", &fetch)
    }

    fn xdelta3(&self) -> Result<Cost> {
        // All of the old image as the window in which it looks: by default it is 64 MB.
        let window = fs::metadata(self.pair.old)?.len().next_power_of_two().to_string();
        let (old, new) = (text(self.pair.old)?, text(self.pair.new)?);
        self.by_file(
            "xdelta3",
            &["-q", "-e", "-9", "-S", "djw", "-B", &window, "-s", old, new, "patch"],
            &["-q", "-d", "-B", &window, "-s", old, "patch", "out"],
        )
    }

    fn bsdiff(&self) -> Result<Cost> {
        let (old, new) = (text(self.pair.old)?, text(self.pair.new)?);
        let made = self.here("bsdiff", &[old, new, "patch"])?;
        let applied = self.here("bspatch", &[old, "out", "patch"])?;
        Ok(Cost { bytes: self.patch()?, made: Some(made), applied })
    }

    fn zstd(&self) -> Result<Cost> {
        let from = format!("--patch-from={}", text(self.pair.old)?);
        let new = text(self.pair.new)?;
        self.by_file(
            "zstd",
            &["-q", "-19", "--long=31", &from, new, "-o", "patch"],
            &["-q", "-d", "--long=31", &from, "patch", "-o", "out"],
        )
    }

    /// A program that makes a file and applies it.
    fn by_file(&self, program: &str, make: &[&str], apply: &[&str]) -> Result<Cost> {
        let made = self.here(program, make)?;
        let applied = self.here(program, apply)?;
        Ok(Cost { bytes: self.patch()?, made: Some(made), applied })
    }

    fn patch(&self) -> Result<u64> {
        Ok(fs::metadata(self.dir.join("patch"))?.len())
    }

    fn here(&self, program: &str, arguments: &[&str]) -> Result<Usage> {
        measured(nice("/usr/bin/time"), self.dir, program, arguments)
    }

    fn over(
        &self,
        wire: &Wire,
        made: Option<Usage>,
        program: &str,
        arguments: &[&str],
    ) -> Result<Cost> {
        let before = wire.bytes()?;
        let time = wire.at_client("/usr/bin/time");
        let applied = measured(time, self.dir, program, arguments)?;
        let bytes = wire.bytes()? - before;
        ensure!(bytes > 0, "nothing went over the wire");
        Ok(Cost { bytes, made, applied })
    }

    /// A directory in which the new image is, to be served.
    fn serve_new(&self) -> Result<std::path::PathBuf> {
        let served = self.dir.join("served");
        fs::create_dir(&served)?;
        symlink(self.pair.new, served.join("new.squashfs"))?;
        Ok(served)
    }
}
