//! `shoal exec`.

use std::io::IsTerminal as _;

use shoal_proto::v1::exec_request::Message as Up;
use shoal_proto::v1::exec_response::Message as Down;
use shoal_proto::v1::{ExecRequest, ExecResponse, ExecStart};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Shell;
use crate::args::instance::ExecArgs;
use crate::client::{Client, ReplyError};
use crate::exit::{Exit, Failure};
use crate::output::OutputError;
use shoal_proto::convert::Invalid;

/// Messages of standard input that are read ahead of the network, of at most [`PIECE`] bytes each.
const AHEAD: usize = 8;
const PIECE: usize = 32 << 10;

/// A terminal was asked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "exec gives the command no terminal: leave out -t (and -i, which is only for typing into it); \
     for several commands, pipe a script into `-- /bin/sh`"
)]
pub(crate) struct NoTerminal;

pub(super) async fn run(shell: &Shell, args: ExecArgs) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let forwards = args.stdin || (!args.no_stdin && !std::io::stdin().is_terminal());
    let (requests, outgoing) = mpsc::channel(AHEAD);
    let doing = format!("run {:?} in {}", args.command[0], args.target);
    let start = ExecStart {
        instance: args.target.instance.to_string(),
        host: args.target.host_name(),
        command: args.command,
    };
    tokio::spawn(async move {
        if forwards {
            feed(start, tokio::io::stdin(), &requests).await;
        } else {
            feed(start, tokio::io::empty(), &requests).await;
        }
    });
    let stream = client.instances().exec(ReceiverStream::new(outgoing)).await;
    let stream = stream.map_err(client.refused_for_host(&doing))?.into_inner();
    let code = drain(&client, &doing, stream, tokio::io::stdout(), tokio::io::stderr()).await?;
    Ok(Exit::Command(code))
}

/// Sends what to run, then all of `input`, then that it has ended. Ends early where no one listens.
async fn feed(
    start: ExecStart,
    mut input: impl AsyncRead + Unpin,
    requests: &mpsc::Sender<ExecRequest>,
) {
    let message = |message| ExecRequest { message: Some(message) };
    if requests.send(message(Up::Start(start))).await.is_err() {
        return;
    }
    let mut buffer = vec![0; PIECE];
    // An input that can't be read counts as ended, as for any program in a pipe.
    while let Ok(read @ 1..) = input.read(&mut buffer).await {
        let piece = bytes::Bytes::copy_from_slice(&buffer[..read]);
        if requests.send(message(Up::Stdin(piece))).await.is_err() {
            return;
        }
    }
    let _ = requests.send(message(Up::StdinClosed(true))).await;
}

/// Writes what comes until the command's exit code does.
async fn drain(
    client: &Client,
    doing: &str,
    mut stream: Streaming<ExecResponse>,
    mut out: impl AsyncWrite + Unpin,
    mut err: impl AsyncWrite + Unpin,
) -> Result<u8, Failure> {
    while let Some(message) = stream.message().await.map_err(client.refused_for_host(doing))? {
        match message.message {
            Some(Down::Stdout(bytes)) => write(&mut out, &bytes).await?,
            Some(Down::Stderr(bytes)) => write(&mut err, &bytes).await?,
            Some(Down::ExitCode(code)) => return Ok(exit_code(code)),
            None => {}
        }
    }
    Err(ReplyError::about("the end of the command")(Invalid::Missing("exit_code")).into())
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), OutputError> {
    let written = to.write_all(bytes).await;
    match written {
        Ok(()) => to.flush().await.map_err(OutputError::Write),
        Err(error) => Err(OutputError::Write(error)),
    }
}

/// What a shell would make of it: a process has one byte for its code.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> ExecStart {
        ExecStart { instance: "a/b".into(), host: None, command: vec!["cat".into()] }
    }

    #[tokio::test]
    async fn the_input_is_sent_whole_and_then_closed() {
        let (requests, mut sent) = mpsc::channel(100);
        let input = vec![7; PIECE + 1];
        feed(start(), input.as_slice(), &requests).await;
        drop(requests);
        assert_eq!(sent.recv().await.unwrap().message, Some(Up::Start(start())));
        let mut got = Vec::new();
        loop {
            match sent.recv().await.unwrap().message.unwrap() {
                Up::Stdin(piece) => got.extend_from_slice(&piece),
                Up::StdinClosed(closed) => break assert!(closed),
                Up::Start(_) => panic!("started twice"),
            }
        }
        assert_eq!(got, input);
        assert_eq!(sent.recv().await, None);
    }

    #[test]
    fn exit_codes_fit_into_a_byte() {
        assert_eq!([0, 1, 127, 255, 256, -1].map(exit_code), [0, 1, 127, 255, 255, 255]);
    }
}
