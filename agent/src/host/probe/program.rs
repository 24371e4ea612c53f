//! A program that is run for a check: how it ends, and the beginning of what it says.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Bytes of each of a program's outputs that are kept.
const KEPT: usize = 512;
/// Bytes of one output after which a program is not listened to any longer: reading what never
/// ends would cost the agent a processor.
const MOST: usize = 1 << 20;
/// How long after a program's end its last words may take. Its pipes need not end with it:
/// something that it left behind may hold them.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How a program ended.
#[derive(Debug)]
pub(in crate::host) enum Ended {
    /// By itself.
    With {
        /// How.
        status: ExitStatus,
        /// The beginning of its standard output.
        out: Vec<u8>,
        /// The beginning of its standard error.
        err: Vec<u8>,
    },
    /// It said over [`MOST`] bytes, and was killed.
    SaidTooMuch,
}

/// Runs `command` to its end. Dropping this kills it, with what it started.
pub(in crate::host) async fn run(mut command: Command) -> io::Result<Ended> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group(command.process_group(0).kill_on_drop(true).spawn()?);
    let mut out = Listener::to(group.0.stdout.take());
    let mut err = Listener::to(group.0.stderr.take());
    let listening = async { tokio::try_join!(out.listen(), err.listen()) };
    let status = tokio::select! {
        status = group.0.wait() => Some(status?),
        heard = listening => match heard {
            Ok(_) => None,
            Err(SaidTooMuch) => return Ok(Ended::SaidTooMuch),
        },
    };
    let status = match status {
        Some(status) => {
            let rest = async { tokio::join!(out.listen(), err.listen()) };
            // Late or too long, what there is by then must do.
            let _ = tokio::time::timeout(LAST_WORDS, rest).await;
            status
        }
        None => group.0.wait().await?,
    };
    Ok(Ended::With { status, out: out.kept, err: err.kept })
}

/// A program in a process group of its own, which is killed when this is dropped before the
/// program has ended: a shell's children are no part of it that its own death would reach.
#[derive(Debug)]
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Once it has ended and been noticed, there is no id: the number may be another's by now.
        let pid = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// One of a program's outputs, of which the beginning is kept and the rest is let go.
#[derive(Debug)]
struct Listener<P> {
    pipe: Option<P>,
    kept: Vec<u8>,
    heard: usize,
}

/// A program that goes on and on.
#[derive(Debug)]
struct SaidTooMuch;

impl<P: AsyncRead + Unpin> Listener<P> {
    fn to(pipe: Option<P>) -> Self {
        Self { pipe, kept: Vec::new(), heard: 0 }
    }

    /// Reads until the end. Can be dropped and called again: nothing that was read is lost.
    async fn listen(&mut self) -> Result<(), SaidTooMuch> {
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer).await {
                // What was read before an error still tells something.
                Ok(0) | Err(_) => self.pipe = None,
                Ok(length) => self.note(&buffer[..length])?,
            }
        }
        Ok(())
    }

    fn note(&mut self, bytes: &[u8]) -> Result<(), SaidTooMuch> {
        self.heard = self.heard.saturating_add(bytes.len());
        let room = KEPT.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
        if self.heard > MOST { Err(SaidTooMuch) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    async fn ended(script: &str) -> (i32, String, String) {
        match run(shell(script)).await.unwrap() {
            Ended::With { status, out, err } => {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                (status.code().unwrap(), text(out), text(err))
            }
            Ended::SaidTooMuch => panic!("{script}: too much"),
        }
    }

    #[tokio::test]
    async fn how_it_ends_and_what_it_says_is_told() {
        assert_eq!(ended("echo a; echo b >&2").await, (0, "a\n".into(), "b\n".into()));
        assert_eq!(ended("exit 3").await, (3, String::new(), String::new()));
        assert_eq!(ended("exec >&- 2>&-; sleep 0.05; exit 4").await.0, 4);
    }

    #[tokio::test]
    async fn more_than_a_pipe_holds_is_read_and_little_of_it_kept() {
        let (code, out, _) = ended("head -c 500000 /dev/zero | tr '\\0' x; exit 7").await;
        assert_eq!((code, out.len()), (7, KEPT));
    }

    #[tokio::test]
    async fn one_that_talks_for_ever_is_stopped() {
        for script in ["yes", "yes >&2", "yes & wait"] {
            let ended = run(shell(script)).await.unwrap();
            assert!(matches!(ended, Ended::SaidTooMuch), "{script}: {ended:?}");
        }
    }

    #[tokio::test]
    async fn what_it_leaves_behind_does_not_hold_it_up() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}; echo said; exit 5", pid.display());
        assert_eq!(ended(&script).await, (5, "said\n".into(), String::new()));
        let left: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn dropping_it_ends_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $! $$ >{}; wait", file.display());
        let late = tokio::time::timeout(Duration::from_millis(300), run(shell(&script))).await;
        assert!(late.is_err());
        let pids = std::fs::read_to_string(&file).unwrap();
        for pid in pids.split_whitespace() {
            wait_for_the_end_of(pid).await;
        }
    }

    /// A killed process may stay a while as one that nobody has asked about.
    async fn wait_for_the_end_of(pid: &str) {
        let stat = Path::new("/proc").join(pid).join("stat");
        for _ in 0..200 {
            match std::fs::read_to_string(&stat) {
                Ok(text) if !text.contains(") Z ") => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                _ => return,
            }
        }
        panic!("{pid} still runs");
    }
}
