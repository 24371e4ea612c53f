//! `shoal agent …`: programs of the agent, for `shoal host upgrade`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use shoal_core::agent_program::{About, AgentVersion, NotAnAgent, Scan};
use shoal_image::{DigestError, Sha256Sum, sha256_of};
use shoal_proto::CHUNK;
use shoal_proto::convert::{Invalid, digest};
use shoal_proto::v1::push_agent_request::Message;
use shoal_proto::v1::{
    AgentProgram, ListAgentsRequest, PushAgentHeader, PushAgentRequest, RemoveAgentRequest,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::Shell;
use super::push::send_chunks;
use crate::args::agent::AgentCommand;
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::output::Console;
use crate::output::progress::Transfer;
use crate::output::size::bytes as size_text;
use crate::output::table::Table;
use crate::output::time::At;

/// Chunks that are read ahead of the network.
const AHEAD: usize = 4;

/// Why a file can't be pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("can't read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no program of the agent", path.display())]
    NotAnAgent {
        path: PathBuf,
        #[source]
        source: NotAnAgent,
    },
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// A file that was looked at and is an agent.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    digest: Sha256Sum,
    pub(crate) about: About,
}

impl Program {
    /// Looks at a file, without running it. Blocks: nothing else runs yet.
    pub(crate) fn read(path: &Path) -> Result<Self, AgentError> {
        let failed = |source| AgentError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let (mut scan, mut chunk) = (Scan::new(), vec![0; CHUNK]);
        loop {
            match file.read(&mut chunk).map_err(failed)? {
                0 => break,
                count => scan.feed(&chunk[..count]),
            }
        }
        let about = scan.finish();
        let about = about.map_err(|source| {
            let path = path.to_owned();
            AgentError::NotAnAgent { path, source }
        })?;
        let digest = sha256_of(path, |_| ())?;
        Ok(Self { path: path.to_owned(), digest, about })
    }
}

#[derive(Debug, Serialize)]
struct ProgramsView {
    agents: Vec<ProgramView>,
}

#[derive(Debug, Serialize)]
struct ProgramView {
    version: String,
    architecture: String,
    digest: String,
    size_bytes: u64,
    pushed: At,
    pushed_by: String,
    /// Names of the hosts that are to run it.
    wanted_by: Vec<String>,
}

impl TryFrom<AgentProgram> for ProgramView {
    type Error = Invalid;

    fn try_from(wire: AgentProgram) -> Result<Self, Invalid> {
        let AgentProgram {
            version,
            architecture,
            digest: bytes,
            size,
            pushed_ms,
            pushed_by,
            wanted_by,
        } = wire;
        let (digest, pushed) = (digest("digest", &bytes)?.to_string(), At::new(pushed_ms));
        Ok(Self { version, architecture, digest, size_bytes: size, pushed, pushed_by, wanted_by })
    }
}

pub(super) async fn run(shell: &Shell, command: AgentCommand) -> Result<Exit, Failure> {
    match command {
        AgentCommand::Push { file } => {
            let program = Program::read(&file)?;
            let client = shell.client().await?;
            let (pushed, sent) = push(shell.console, &client, &program).await?;
            let view = read(pushed)?;
            let how = if sent { "is known now" } else { "is known already, nothing sent" };
            let ProgramView { version, architecture, .. } = &view;
            let said = format!("agent {version} for {architecture} {how}");
            shell.console.result(said, &view)?;
        }
        AgentCommand::List => list(shell, &shell.client().await?).await?,
        AgentCommand::Rm { version, architecture } => {
            remove(shell, &shell.client().await?, &version, architecture).await?;
        }
    }
    Ok(Exit::Done)
}

/// The programs that the controller knows.
pub(crate) async fn known(client: &Client) -> Result<Vec<AgentProgram>, Failure> {
    let reply = client.agents().list(client.ask(ListAgentsRequest {})).await;
    Ok(reply.map_err(client.refused("list agents"))?.into_inner().programs)
}

/// Makes a program known; whether it had to be sent.
pub(crate) async fn push(
    console: Console,
    client: &Client,
    program: &Program,
) -> Result<(AgentProgram, bool), Failure> {
    let Program { path, digest, about } = program.clone();
    let About { version, architecture, size } = &about;
    let there = known(client).await?.into_iter().find(|known| {
        (known.version.as_str(), known.architecture.as_str()) == (version.as_str(), *architecture)
            && *known.digest == digest.as_bytes()[..]
    });
    if let Some(there) = there {
        return Ok((there, false));
    }
    let doing = format!("push agent {version}");
    let header = PushAgentHeader { digest: digest.as_bytes().to_vec().into(), size: *size };
    let (requests, outgoing) = mpsc::channel(AHEAD);
    let (position, mut at) = watch::channel(0);
    let (from, size) = (path.clone(), *size);
    let reader = tokio::task::spawn_blocking(move || send(&from, header, &requests, &position));
    let mut agents = client.agents();
    let call = agents.push(ReceiverStream::new(outgoing));
    tokio::pin!(call);
    let mut progress = Transfer::start(console, "sending", size);
    let replied = loop {
        tokio::select! {
            replied = &mut call => break replied,
            Ok(()) = at.changed() => progress.at(*at.borrow_and_update()),
        }
    };
    progress.end();
    let replied = replied.map_err(client.refused(doing));
    if let Ok(Err(source)) = reader.await {
        return Err(AgentError::Read { path, source }.into());
    }
    let pushed = replied?.into_inner().program.ok_or(Invalid::Missing("program"));
    Ok((pushed.map_err(ReplyError::about(format!("agent {version}")))?, true))
}

/// Reads the file into a channel.
fn send(
    path: &Path,
    header: PushAgentHeader,
    requests: &mpsc::Sender<PushAgentRequest>,
    position: &watch::Sender<u64>,
) -> io::Result<()> {
    let send =
        |message| requests.blocking_send(PushAgentRequest { message: Some(message) }).is_ok();
    let part = (0, header.size);
    if !send(Message::Header(header)) {
        return Ok(());
    }
    send_chunks(path, part, |chunk| send(Message::Data(chunk)), position)
}

async fn list(shell: &Shell, client: &Client) -> Result<(), Failure> {
    let agents: Result<_, _> =
        known(client).await?.into_iter().map(ProgramView::try_from).collect();
    let view = ProgramsView { agents: agents.map_err(ReplyError::about("agents"))? };
    Ok(shell.console.result(table(&view, shell.console.color()), &view)?)
}

fn table(view: &ProgramsView, color: bool) -> String {
    let header = &["VERSION", "ARCHITECTURE", "SIZE", "PUSHED", "BY", "WANTED BY"];
    let mut table = Table::new(header);
    for program in &view.agents {
        table.row(vec![
            program.version.as_str().into(),
            program.architecture.as_str().into(),
            size_text(program.size_bytes).into(),
            program.pushed.ago(clock::now()).into(),
            program.pushed_by.as_str().into(),
            program.wanted_by.join(",").into(),
        ]);
    }
    table.render(color, "No agents. `shoal agent push FILE` adds one.")
}

async fn remove(
    shell: &Shell,
    client: &Client,
    version: &AgentVersion,
    architecture: Option<String>,
) -> Result<(), Failure> {
    let request = RemoveAgentRequest {
        version: version.to_string(),
        architecture: architecture.unwrap_or_default(),
    };
    let reply = client.agents().remove(client.ask(request)).await;
    let reply = reply.map_err(client.refused(format!("remove agent {version}")))?.into_inner();
    let agents: Result<Vec<_>, Failure> = reply.removed.into_iter().map(read).collect();
    let view = ProgramsView { agents: agents? };
    let of: Vec<&str> = view.agents.iter().map(|agent| agent.architecture.as_str()).collect();
    let said = format!("removed agent {version} for {}", of.join(", "));
    Ok(shell.console.result(said, &view)?)
}

fn read(program: AgentProgram) -> Result<ProgramView, Failure> {
    Ok(ProgramView::try_from(program).map_err(ReplyError::about("an agent"))?)
}
