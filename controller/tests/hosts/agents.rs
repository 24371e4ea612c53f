//! Programs of the agent: taken in, told to hosts, given to those that are to run them.

use shoal_core::agent_program::stamp;
use shoal_proto::v1::agents_client::AgentsClient;
use shoal_proto::v1::push_agent_request::Message;
use shoal_proto::v1::{
    AgentPhase, AgentProgram, AgentSpec, AgentStatus, FetchAgentRequest, HostFacts, HostPolicy,
    HostStatus, ListAgentsRequest, ListAuditRequest, PushAgentHeader, PushAgentRequest,
    PushAgentResponse, RemoveAgentRequest, UpgradeAgentRequest, UpgradeAgentResponse,
    agent_message, controller_message,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::agent::{Agent, Stream, hello};
use crate::stand::{Stand, until};

/// A program that says this version, for x86-64 (62) or arm64 (183).
fn program(version: &str, machine: u8) -> Vec<u8> {
    let mut bytes = vec![0; 320];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    (bytes[16], bytes[18]) = (3, machine);
    bytes[40..42].copy_from_slice(&256_u16.to_le_bytes());
    (bytes[58], bytes[60]) = (64, 1);
    bytes[128..256].copy_from_slice(&stamp(version));
    bytes
}

fn sum(bytes: &[u8]) -> Vec<u8> {
    shoal_image::Sha256Sum::of(bytes).as_bytes().to_vec()
}

async fn agents(stand: &Stand) -> AgentsClient<Channel> {
    AgentsClient::new(stand.admin().await)
}

async fn send(
    agents: &mut AgentsClient<Channel>,
    digest: Vec<u8>,
    size: usize,
    pieces: &[&[u8]],
) -> Result<PushAgentResponse, Status> {
    let size = u64::try_from(size).unwrap();
    let header = Message::Header(PushAgentHeader { digest: digest.into(), size });
    let data = pieces.iter().map(|piece| Message::Data(piece.to_vec().into()));
    let messages: Vec<PushAgentRequest> = std::iter::once(header)
        .chain(data)
        .map(|message| PushAgentRequest { message: Some(message) })
        .collect();
    Ok(agents.push(tokio_stream::iter(messages)).await?.into_inner())
}

async fn push(stand: &Stand, bytes: &[u8]) -> Result<PushAgentResponse, Status> {
    let mut agents = agents(stand).await;
    let (first, rest) = bytes.split_at(bytes.len() / 3);
    send(&mut agents, sum(bytes), bytes.len(), &[first, rest]).await
}

async fn list(stand: &Stand) -> Vec<AgentProgram> {
    agents(stand).await.list(ListAgentsRequest {}).await.unwrap().into_inner().programs
}

async fn upgrade(stand: &Stand, host: &str, to: &str) -> Result<UpgradeAgentResponse, Status> {
    let (host, version) = (host.to_owned(), to.to_owned());
    let request = UpgradeAgentRequest { host, version, deadline_ms: 0 };
    Ok(agents(stand).await.upgrade(request).await?.into_inner())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &[&str]) {
    let status = answer.expect_err("it was not refused");
    assert_eq!(status.code(), code, "{status:?}");
    for word in words {
        assert!(status.message().contains(word), "{word:?} is not in {status:?}");
    }
}

/// A host whose agent has said which processor it has.
async fn connected(stand: &Stand, name: &str, architecture: &str) -> (Agent, Stream) {
    let agent = stand.host(name).await;
    let mut stream = agent.open(stand).await;
    let mut hello = hello();
    let facts = hello.facts.get_or_insert_with(HostFacts::default);
    facts.architecture = architecture.into();
    stream.say(agent_message::Message::Hello(hello)).await;
    let first = stream.hear().await;
    assert!(matches!(first, controller_message::Message::Welcome(_)), "{first:?}");
    (agent, stream)
}

async fn hear_agent(stream: &mut Stream) -> (u64, Option<AgentSpec>) {
    match stream.hear().await {
        controller_message::Message::Desired(spec) => (spec.generation, spec.agent),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_program_is_known_by_what_it_says_of_itself() {
    let mut stand = Stand::new().await;
    let bytes = program("0.3.0", 62);
    let pushed = push(&stand, &bytes).await.unwrap();
    assert!(pushed.changed);
    let known = pushed.program.unwrap();
    assert_eq!((known.version.as_str(), known.architecture.as_str()), ("0.3.0", "x86-64"));
    assert!(!push(&stand, &bytes).await.unwrap().changed, "the same again");
    push(&stand, &program("0.3.0", 183)).await.unwrap();
    stand.stop().await;
    stand.start().await;
    let known: Vec<String> =
        list(&stand).await.iter().map(|p| format!("{}/{}", p.version, p.architecture)).collect();
    assert_eq!(known.len(), 2, "{known:?}");

    let mut other = bytes.clone();
    other[300] = 1;
    let words = ["another program is known as agent 0.3.0 for x86-64", "shoal agent rm 0.3.0"];
    refused(push(&stand, &other).await, Code::AlreadyExists, &words);
    let audit = stand.controller().await.list_audit(ListAuditRequest::default()).await.unwrap();
    let pushes = audit.into_inner().entries.iter().filter(|e| e.what == "Agents/Push").count();
    assert_eq!(pushes, 2);
}

#[tokio::test]
async fn what_is_no_agent_leaves_nothing_behind() {
    let stand = Stand::new().await;
    let whole = program("0.3.0", 62);
    let mut unstamped = whole.clone();
    unstamped[128..256].fill(0);
    let invalid = Code::InvalidArgument;
    refused(push(&stand, b"#!/bin/sh\necho I am an agent\n").await, invalid, &["no program"]);
    refused(push(&stand, &whole[..310]).await, invalid, &["its end is missing"]);
    refused(push(&stand, &unstamped).await, invalid, &["no shoal-agent"]);
    let mut agents = agents(&stand).await;
    let lying = send(&mut agents, sum(b"other"), whole.len(), &[&whole]).await;
    refused(lying, Code::DataLoss, &["not what was announced"]);
    let short = send(&mut agents, sum(&whole), 400, &[&whole]).await;
    refused(short, invalid, &["320 bytes came of the 400"]);
    let long = send(&mut agents, sum(&whole), 10, &[&whole]).await;
    refused(long, invalid, &["more bytes came"]);
    let huge = send(&mut agents, sum(&whole), 1 << 40, &[]).await;
    refused(huge, invalid, &["at most 512 MiB"]);
    let nothing = agents.push(tokio_stream::iter([])).await;
    refused(nothing, invalid, &["announce"]);
    assert!(list(&stand).await.is_empty());
    let files = std::fs::read_dir(stand.dir().join("agents")).unwrap().count();
    assert_eq!(files, 0, "something was left");
}

#[tokio::test]
async fn a_host_is_told_and_given_its_program_and_no_other() {
    let stand = Stand::new().await;
    let (bytes, other) = (program("0.3.0", 62), program("0.4.0", 62));
    push(&stand, &bytes).await.unwrap();
    push(&stand, &other).await.unwrap();
    let (_agent, mut stream) = connected(&stand, "web-1", "x86-64").await;
    let told = upgrade(&stand, "web-1", "0.3.0").await.unwrap();
    assert!(told.changed);
    let (generation, agent) = hear_agent(&mut stream).await;
    let agent = agent.unwrap();
    assert_eq!((generation, agent.asked, agent.deadline_ms), (told.generation, 1, 60_000));
    assert_eq!(agent.digest.to_vec(), sum(&bytes));
    assert!(!upgrade(&stand, "web-1", "0.3.0").await.unwrap().changed);

    let mut fetched = Vec::new();
    let request = FetchAgentRequest { digest: agent.digest.clone(), offset: 100 };
    let mut chunks = stream.link.fetch_agent(request).await.unwrap().into_inner();
    while let Some(chunk) = chunks.message().await.unwrap() {
        fetched.extend_from_slice(&chunk.data);
    }
    assert_eq!(fetched, bytes[100..]);
    let request = FetchAgentRequest { digest: sum(&other).into(), offset: 0 };
    refused(stream.link.fetch_agent(request).await, Code::PermissionDenied, &["no byte of it"]);

    let held = agents(&stand)
        .await
        .remove(RemoveAgentRequest { version: "0.3.0".into(), architecture: String::new() })
        .await;
    refused(held, Code::FailedPrecondition, &["web-1"]);
    assert_eq!(stand.show("web-1").await.agent.unwrap().version, "0.3.0");
    assert!(upgrade(&stand, "web-1", "").await.unwrap().changed);
    assert_eq!(hear_agent(&mut stream).await, (generation + 1, None));
    let gone = RemoveAgentRequest { version: "0.3.0".into(), architecture: "x86-64".into() };
    agents(&stand).await.remove(gone.clone()).await.unwrap();
    refused(agents(&stand).await.remove(gone).await, Code::NotFound, &["shoal agent list"]);
    assert!(!stand.dir().join("agents").join(hex(&sum(&bytes))).exists());
    assert!(stand.dir().join("agents").join(hex(&sum(&other))).exists());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn what_a_host_rejected_is_told_again_when_someone_asks() {
    let stand = Stand::new().await;
    push(&stand, &program("0.3.0", 62)).await.unwrap();
    let (_agent, mut stream) = connected(&stand, "web-1", "x86-64").await;
    upgrade(&stand, "web-1", "0.3.0").await.unwrap();
    let (observed_generation, agent) = hear_agent(&mut stream).await;
    let AgentSpec { version, digest, asked, .. } = agent.unwrap();
    let phase = AgentPhase::Rejected.into();
    let status = AgentStatus { version, digest, asked, phase, message: "no".into() };
    let agent = Some(status);
    stream.report(HostStatus { observed_generation, agent, ..HostStatus::default() }).await;
    until("the report", async || {
        stand.show("web-1").await.status.is_some_and(|s| s.agent.is_some())
    })
    .await;
    assert!(upgrade(&stand, "web-1", "0.3.0").await.unwrap().changed);
    let (_, again) = hear_agent(&mut stream).await;
    assert_eq!(again.unwrap().asked, 2);
}

#[tokio::test]
async fn a_program_for_another_processor_is_refused_by_the_hosts_name() {
    let stand = Stand::new().await;
    push(&stand, &program("0.3.0", 62)).await.unwrap();
    let (_agent, _stream) = connected(&stand, "pi-1", "arm64").await;
    let precondition = Code::FailedPrecondition;
    let words = ["host pi-1 is arm64", "no agent 0.3.0 for it", "there for x86-64"];
    refused(upgrade(&stand, "pi-1", "0.3.0").await, precondition, &words);
    refused(upgrade(&stand, "pi-1", "9").await, precondition, &["none of that version"]);
    refused(upgrade(&stand, "pi-2", "0.3.0").await, Code::NotFound, &["did you mean pi-1?"]);
    let (host, version) = ("pi-1".to_owned(), "0.3.0".to_owned());
    let hasty = UpgradeAgentRequest { host, version, deadline_ms: 5 };
    refused(agents(&stand).await.upgrade(hasty).await, Code::InvalidArgument, &["between 10"]);
    stand.host("new").await;
    refused(upgrade(&stand, "new", "0.3.0").await, precondition, &["never said which processor"]);
    assert_eq!(stand.show("pi-1").await.generation, 0, "nothing was changed");
}

#[tokio::test]
async fn a_host_whose_root_does_not_want_it_is_left_alone() {
    let stand = Stand::new().await;
    push(&stand, &program("0.3.0", 62)).await.unwrap();
    let agent = stand.host("own").await;
    let stream = agent.open(&stand).await;
    let mut hello = hello();
    let facts = hello.facts.get_or_insert_with(HostFacts::default);
    facts.architecture = "x86-64".into();
    facts.policy = Some(HostPolicy { no_agent_upgrade: true, ..HostPolicy::default() });
    stream.say(agent_message::Message::Hello(hello)).await;
    until("its hello", async || stand.show("own").await.online).await;
    let words = ["policy of host own", "agent-upgrade = false"];
    refused(upgrade(&stand, "own", "0.3.0").await, Code::FailedPrecondition, &words);
}

#[tokio::test]
async fn only_an_admin_says_what_runs_as_root_on_every_host() {
    let stand = Stand::new().await;
    let mut otto = AgentsClient::new(stand.user("otto", "operator").await);
    let bytes = program("0.3.0", 62);
    let pushed = send(&mut otto, sum(&bytes), bytes.len(), &[&bytes]).await;
    refused(pushed, Code::PermissionDenied, &["needs admin"]);
    let (host, version) = ("web-1".to_owned(), "0.3.0".to_owned());
    let request = UpgradeAgentRequest { host, version, deadline_ms: 0 };
    refused(otto.upgrade(request).await, Code::PermissionDenied, &["needs admin"]);
    assert!(otto.list(ListAgentsRequest {}).await.is_ok());
}
