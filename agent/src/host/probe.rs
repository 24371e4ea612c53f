//! Health checks, each made in the surroundings of the instance that it is about.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use shoal_core::spec::{Health, TcpAddress, UnitName};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::enter::{self, Container};

/// Bytes of a program's answer that are looked at.
const LONGEST_ANSWER: u64 = 512;

/// What to check of which container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The container.
    pub container: Container,
    /// The checks.
    pub checks: Health,
}

/// One round of all checks, within their timeout.
///
/// # Errors
/// The first check that failed, and why.
pub async fn check(probe: &Probe) -> Result<(), String> {
    let timeout = probe.checks.timeout;
    let round = async {
        if let Some(unit) = &probe.checks.unit {
            check_unit(&probe.container, unit).await?;
        }
        if let Some(address) = &probe.checks.tcp {
            check_tcp(probe.container.leader, address, timeout).await?;
        }
        Ok(())
    };
    let late = |_| Err(format!("its checks took longer than {timeout:?}"));
    tokio::time::timeout(timeout, round).await.unwrap_or_else(late)
}

/// Asks the instance's own systemd, which also works where the image has no D-Bus daemon.
async fn check_unit(container: &Container, unit: &UnitName) -> Result<(), String> {
    let words = ["systemctl", "show", "--property=ActiveState", "--value", "--", unit.as_str()];
    let mut command = enter::command(container, &words.map(str::to_owned), &[]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let asked = async {
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let answer = tokio::join!(beginning(stdout), beginning(stderr));
        child.start_kill()?;
        child.wait().await?;
        Ok::<_, std::io::Error>(answer)
    };
    let (state, complaint) = asked.await.map_err(|e| format!("can't look at {unit}: {e}"))?;
    match state.as_str() {
        "active" => Ok(()),
        "" => Err(format!("can't look at {unit}: {complaint}")),
        state => Err(format!("{unit} is {state}")),
    }
}

/// The first of what a program inside says, on one line. It is the instance's own program: it may
/// say anything, for ever.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error still tells something.
        let _ = pipe.take(LONGEST_ANSWER).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).trim().replace(|c: char| c.is_control(), " ")
}

async fn check_tcp(leader: u32, address: &TcpAddress, timeout: Duration) -> Result<(), String> {
    let socket = address.socket_addr();
    let connected = tokio::task::spawn_blocking(move || connect_inside(leader, socket, timeout));
    let connected = connected.await.map_err(|e| e.to_string())?;
    connected.map_err(|e| format!("tcp {address} does not accept: {e}"))
}

/// Connects from within the network namespace of `leader`.
fn connect_inside(leader: u32, address: SocketAddr, timeout: Duration) -> std::io::Result<()> {
    let namespace = File::open(format!("/proc/{leader}/ns/net"))?;
    // A thread of its own, which ends with the namespace that it moved to.
    let thread = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        TcpStream::connect_timeout(&address, timeout).map(drop)
    });
    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the check's thread ended")))
}
