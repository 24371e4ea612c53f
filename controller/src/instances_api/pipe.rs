//! Logs and exec: what an agent's session carries, to and from the caller.
//!
//! Each has one task between a session and a call. It takes the next message when the last has
//! been taken from it, so that a slow reader slows the host and fills no memory. It ends with the
//! caller, with the session, or with the controller, whichever is first.

use futures_util::{Stream, StreamExt};
use shoal_core::name::HostName;
use shoal_proto::v1::{
    ExecRequest, ExecResponse, LogEntry, exec_request, exec_response, session_down, session_up,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::refusal::Refusal;
use crate::sessions::{SHUTTING_DOWN, Session};

/// Messages to the caller that wait. Few: one may have 256 KiB.
pub(super) const WAITING: usize = 4;

/// To the caller.
pub(super) type Out<T> = mpsc::Sender<Result<T, Status>>;

/// How a session ended.
type Ended = Result<(), Refusal>;

/// Carries an instance's logs until they end.
pub(super) async fn logs(
    session: Session,
    host: HostName,
    is_connected: impl Fn() -> bool + Send,
    out: Out<LogEntry>,
    shutdown: CancellationToken,
) {
    let Session { mut up, down } = session;
    let carry = async {
        while let Some(message) = up.recv().await {
            match message {
                session_up::Message::Log(entry) => {
                    let entry = LogEntry { host: host.to_string(), ..entry };
                    if out.send(Ok(entry)).await.is_err() {
                        return Ok(());
                    }
                }
                session_up::Message::Error(error) => return Err(told(&host, &error.message)),
                other => unexpected(&host, &other),
            }
        }
        if is_connected() { Ok(()) } else { Err(broken(&host, "the logs may go on")) }
    };
    let ended = until(carry, &out, &shutdown).await;
    drop(down);
    finish(ended, &out).await;
}

/// Carries a command's streams until it ends.
pub(super) async fn exec(
    session: Session,
    host: HostName,
    input: impl Stream<Item = Result<ExecRequest, Status>> + Send + Unpin,
    out: Out<ExecResponse>,
    shutdown: CancellationToken,
) {
    let Session { mut up, down } = session;
    let carry = async {
        tokio::select! {
            ended = output(&mut up, &host, &out) => ended,
            // Ends only with the call; the command goes on after its input.
            () = stdin(input, down) => Ok(()),
        }
    };
    let ended = until(carry, &out, &shutdown).await;
    finish(ended, &out).await;
}

async fn output(
    up: &mut mpsc::Receiver<session_up::Message>,
    host: &HostName,
    out: &Out<ExecResponse>,
) -> Ended {
    use exec_response::Message as Response;
    while let Some(message) = up.recv().await {
        let (response, is_last) = match message {
            session_up::Message::Stdout(bytes) => (Response::Stdout(bytes), false),
            session_up::Message::Stderr(bytes) => (Response::Stderr(bytes), false),
            session_up::Message::ExitCode(code) => (Response::ExitCode(code), true),
            session_up::Message::Error(error) => return Err(told(host, &error.message)),
            other => {
                unexpected(host, &other);
                continue;
            }
        };
        let sent = out.send(Ok(ExecResponse { message: Some(response) })).await;
        if is_last || sent.is_err() {
            return Ok(());
        }
    }
    Err(broken(host, "the command may still run there"))
}

/// Sends what the caller types, then that it has ended, then waits.
async fn stdin(
    mut input: impl Stream<Item = Result<ExecRequest, Status>> + Unpin,
    down: mpsc::Sender<session_down::Message>,
) {
    while let Some(Ok(ExecRequest { message })) = input.next().await {
        let message = match message {
            Some(exec_request::Message::Stdin(bytes)) => session_down::Message::Stdin(bytes),
            Some(exec_request::Message::StdinClosed(true)) => break,
            _ => continue,
        };
        if down.send(message).await.is_err() {
            break;
        }
    }
    // The session may have ended meanwhile; its output says how.
    let _ = down.send(session_down::Message::StdinClosed(true)).await;
    std::future::pending().await
}

/// Runs `carry` until it ends, the caller goes, or the controller ends.
async fn until<T>(
    carry: impl Future<Output = Ended>,
    out: &Out<T>,
    shutdown: &CancellationToken,
) -> Ended {
    tokio::select! {
        // The controller's end also ends the agents' sessions, which must not pass for theirs.
        biased;
        () = shutdown.cancelled() => Err(Refusal::Unavailable(SHUTTING_DOWN.into())),
        ended = carry => ended,
        () = out.closed() => Ok(()),
    }
}

async fn finish<T>(ended: Ended, out: &Out<T>) {
    if let Err(refusal) = ended {
        // A caller that is gone needs no reason.
        let _ = out.send(Err(refusal.into())).await;
    }
}

fn told(host: &HostName, message: &str) -> Refusal {
    Refusal::Precondition(format!("host {host}: {message}"))
}

fn broken(host: &HostName, consequence: &str) -> Refusal {
    Refusal::Unavailable(format!("the connection to host {host} broke; {consequence}"))
}

fn unexpected(host: &HostName, message: &session_up::Message) {
    let kind = match message {
        session_up::Message::SessionId(_) => "session id",
        session_up::Message::Log(_) => "log entry",
        session_up::Message::Stdout(_) | session_up::Message::Stderr(_) => "output",
        session_up::Message::ExitCode(_) => "exit code",
        session_up::Message::Error(_) => "error",
    };
    tracing::warn!(%host, kind, "an agent sent what its session is not for");
}
