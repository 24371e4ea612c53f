//! Waiting for a hook: for its end, for what it prints, and for a stop of its unit, which is passed
//! on to it. Meanwhile systemd is told that the start goes on, so that a hook may take its time.
//!
//! systemd-nspawn says when it has made the container, by the way that services have for that. What
//! fails before that is no failure of the hook.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sd_notify::NotifyState;
use shoal_core::name::MachineName;
use tokio::io::AsyncReadExt;
use tokio::net::UnixDatagram;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::runtime::Runtime;
use tokio::signal::unix::{self, SignalKind};

use super::lines::Lines;
use crate::host::ending;
use crate::host::group::Aside;
use crate::host::journal::voice::Voice;

/// How often systemd is told that the start goes on.
const TELL: Duration = Duration::from_secs(60);
/// How long it then waits for the next word, in microseconds: what the unit's TimeoutStartSec says,
/// which is what the start of the container after the hook may take.
const GOES_ON: u32 = 900_000_000;
/// How long what a hook has printed may take to come after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Syslog priority of what a hook prints.
const INFO: u8 = 6;

/// How a hook ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// How systemd-nspawn did.
    pub(super) status: ExitStatus,
    /// Whether its container was made.
    pub(super) begun: bool,
    /// Whether the unit was told to stop.
    pub(super) told: bool,
    /// The last line that it printed.
    pub(super) last_line: Option<String>,
    /// The signal that ended the container's first process, where systemd-nspawn has told.
    pub(super) inside: Option<String>,
}

impl Ended {
    /// For people.
    pub(super) fn how(&self) -> String {
        use std::os::unix::process::ExitStatusExt;
        match (&self.inside, self.status.code(), self.status.signal()) {
            (Some(signal), ..) => format!("killed by SIG{signal}"),
            // What stands for a program that could not give a code of its own.
            (None, Some(255), _) => "killed by a signal".into(),
            (None, Some(code), _) => format!("exit code {code}"),
            (None, None, Some(signal)) => format!("systemd-nspawn was killed by signal {signal}"),
            (None, None, None) => "ended without a reason".into(),
        }
    }
}

/// Hears a stop of the unit, from its beginning on.
#[derive(Debug)]
pub(crate) struct Watch {
    runtime: Runtime,
    stop: unix::Signal,
}

impl Watch {
    /// From now on this process is not ended by being told to, but [hears](Self::is_told) it.
    pub(super) fn begin() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = {
            let _inside = runtime.enter();
            unix::signal(SignalKind::terminate())?
        };
        Ok(Self { runtime, stop })
    }

    /// Whether the unit was told to stop, and nobody has heard it yet.
    pub(crate) fn is_told(&mut self) -> bool {
        let Self { runtime, stop } = self;
        let told = async { tokio::time::timeout(Duration::from_millis(1), stop.recv()).await };
        runtime.block_on(told).is_ok()
    }

    /// Runs `command`, which becomes systemd-nspawn, and waits for its end. It tells by `ready`
    /// that it has made the container.
    pub(super) fn run(
        &mut self,
        command: Command,
        ready: &Path,
        voice: &Voice,
        machine: &MachineName,
        aside: &Aside,
    ) -> io::Result<Ended> {
        self.run_with(command, ready, voice, machine, || aside.inside())
    }

    fn run_with(
        &mut self,
        command: Command,
        ready: &Path,
        voice: &Voice,
        machine: &MachineName,
        inside: impl Fn() -> Vec<Pid>,
    ) -> io::Result<Ended> {
        let Self { runtime, stop } = self;
        let heard = Heard { voice, machine, lines: Lines::default(), last: None, inside: None };
        runtime.block_on(supervise(command, ready, heard, stop, inside))
    }
}

async fn supervise(
    mut command: Command,
    ready: &Path,
    mut heard: Heard<'_>,
    stop: &mut unix::Signal,
    inside: impl Fn() -> Vec<Pid>,
) -> io::Result<Ended> {
    let ready_socket = UnixDatagram::bind(ready)?;
    let (reader, writer) = io::pipe()?;
    command.env("NOTIFY_SOCKET", ready).stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = tokio::process::Command::from(command).spawn()?;
    let mut output = pipe::Receiver::from_owned_fd(reader.into())?;
    let mut tell = tokio::time::interval(TELL);
    let (mut piece, mut begun, mut told, mut open) = (vec![0; 8 << 10], false, false, true);
    let mut word = [0; 512];
    let status = loop {
        // Each of these can be dropped without losing anything.
        tokio::select! {
            status = child.wait() => break status?,
            read = output.read(&mut piece), if open => match read {
                Ok(count) if count > 0 => heard.take(&piece[..count]),
                _ => open = false,
            },
            Ok(count) = ready_socket.recv(&mut word) => begun |= says_ready(&word[..count]),
            _ = stop.recv(), if !told => {
                told = true;
                end(&child, &inside());
            },
            _ = tell.tick() => goes_on(),
        }
    };
    while let Ok(count) = ready_socket.try_recv(&mut word) {
        begun |= says_ready(&word[..count]);
    }
    // What it has left behind may keep the pipe open, and is not waited for.
    let rest = async {
        while let Ok(count) = output.read(&mut piece).await {
            if count == 0 {
                break;
            }
            heard.take(&piece[..count]);
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    let (last_line, inside) = heard.end();
    goes_on();
    Ok(Ended { status, begun, told, last_line, inside })
}

/// Has systemd wait for the start on.
fn goes_on() {
    // Where it is not systemd that waits, nobody does.
    let _ = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(GOES_ON)]);
}

fn says_ready(word: &[u8]) -> bool {
    word.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

/// Has a hook end as a service does: its processes are told to, and waited for. systemd-nspawn, told
/// so itself, would not give them the time.
fn end(child: &Child, inside: &[Pid]) {
    let nspawn = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let before_it = if inside.is_empty() { nspawn } else { None };
    for pid in inside.iter().copied().chain(before_it) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// What a hook prints, on its way to the journal.
struct Heard<'a> {
    voice: &'a Voice,
    machine: &'a MachineName,
    lines: Lines,
    last: Option<Vec<u8>>,
    inside: Option<String>,
}

impl Heard<'_> {
    fn take(&mut self, piece: &[u8]) {
        for line in self.lines.push(piece) {
            self.line(line);
        }
    }

    fn line(&mut self, line: Vec<u8>) {
        let text = String::from_utf8_lossy(&line);
        if let Some(signal) = ending::signal_in(self.machine, &text) {
            self.inside = Some(signal.to_owned());
            return;
        }
        self.voice.say(INFO, &line);
        self.last = Some(line);
    }

    fn end(mut self) -> (Option<String>, Option<String>) {
        if let Some(line) = self.lines.end() {
            self.line(line);
        }
        let last = self.last.map(|line| String::from_utf8_lossy(&line).into_owned());
        (last, self.inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> Ended {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        let (voice, machine) = (Voice::new("hook-test"), "shop-main".parse().unwrap());
        let mut watch = Watch::begin().unwrap();
        let ready = dir.path().join("ready");
        watch.run_with(command, &ready, &voice, &machine, Vec::new).unwrap()
    }

    #[test]
    fn the_end_and_the_last_line_are_told() {
        let ended = run("echo one; echo two >&2; printf three; exit 3");
        assert_eq!((ended.how(), ended.last_line), ("exit code 3".into(), Some("three".into())));
        assert!(!ended.begun && !ended.told);
        let ended = run("echo why; echo 'Container shop-main terminated by signal KILL.'; exit 1");
        assert_eq!(
            (ended.how(), ended.last_line),
            ("killed by SIGKILL".into(), Some("why".into()))
        );
        assert_eq!(run("exit 255").how(), "killed by a signal");
        assert_eq!(run("kill -9 $$").how(), "systemd-nspawn was killed by signal 9");
        assert!(run("exit 0").status.success());
    }

    #[test]
    fn what_is_left_behind_is_not_waited_for() {
        let began = std::time::Instant::now();
        let ended = run("sleep 60 & echo done");
        assert_eq!(ended.last_line.as_deref(), Some("done"));
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn ready_is_a_line_of_its_own() {
        assert!(says_ready(b"STATUS=Container running.\nREADY=1\n"));
        assert!(!says_ready(b"STATUS=READY=1\n"));
    }
}
