//! From a push to a running instance, over the wire: a real controller on its ports, real
//! certificates, and agents that do what the tests tell them to.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[allow(dead_code, unreachable_pub, reason = "shared with the tests of hosts")]
#[path = "../hosts/agent.rs"]
mod agent;
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of hosts")]
#[path = "../hosts/stand.rs"]
mod stand;

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use shoal_proto::v1::fleets_client::FleetsClient;
use shoal_proto::v1::images_client::ImagesClient;
use shoal_proto::v1::instances_client::InstancesClient;
use shoal_proto::v1::rollouts_client::RolloutsClient;
use shoal_proto::v1::secrets_client::SecretsClient;
use shoal_proto::v1::{
    self, ApplyRequest, BeginPushRequest, DeclaredInstance, ExecRequest, ExecStart,
    FetchImageRequest, FleetSpec, HostMatch, HostSpec, HostStatus, InstanceHealth, InstanceState,
    InstanceStatus, LogEntry, LogsRequest, Network, PushHeader, PushRequest, RemoveSecretRequest,
    RolloutState, SessionDown, SessionUp, SetSecretRequest, Settings, WatchRolloutRequest,
    controller_message, exec_request, exec_response, host_match, push_request, session_down,
    session_up, settings,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::agent::Stream;
use crate::stand::{PATIENCE, Stand};

#[allow(clippy::disallowed_methods, reason = "the image under test is made by the real tool")]
fn squashfs() -> Bytes {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image.squashfs"));
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/os-release"), "ID=debian\nVERSION_ID=\"12\"\n").unwrap();
    // More than one message, and more than the windows of a call.
    let noise = (0..200_000_u32).flat_map(|n| Sha256::digest(n.to_le_bytes()));
    std::fs::write(tree.join("noise"), noise.collect::<Vec<u8>>()).unwrap();
    let output = std::process::Command::new("mksquashfs")
        .args([&tree, &image])
        .args(["-noappend", "-no-progress", "-quiet", "-all-root", "-comp", "zstd"])
        .output()
        .expect("squashfs-tools are installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(image).unwrap().into()
}

fn digest_of(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(bytes))
}

fn push_of(bytes: &Bytes, offset: u64, reference: &str) -> Vec<PushRequest> {
    let header = PushHeader {
        recipe: Bytes::new(),
        digest: digest_of(bytes),
        size: u64::try_from(bytes.len()).unwrap(),
        offset,
        reference: reference.into(),
        signed: None,
    };
    let rest = bytes.slice(usize::try_from(offset).unwrap()..);
    let data = rest.chunks(shoal_proto::CHUNK).map(Bytes::copy_from_slice);
    let messages = [push_request::Message::Header(header)]
        .into_iter()
        .chain(data.map(push_request::Message::Data));
    messages.map(|message| PushRequest { message: Some(message) }).collect()
}

async fn push(admin: &Channel, bytes: &Bytes, reference: &str) {
    let messages = tokio_stream::iter(push_of(bytes, 0, reference));
    ImagesClient::new(admin.clone()).push(messages).await.unwrap();
}

/// The fleet `shop` with one instance `main` of an image, on every host.
fn shop(image: &str) -> FleetSpec {
    let settings = Settings {
        start: Some(settings::Start::Boot(v1::Boot {})),
        network: Network::Host.into(),
        ..Settings::default()
    };
    let hosts = HostMatch { r#match: Some(host_match::Match::All(v1::AllHosts {})) };
    let declared = DeclaredInstance {
        image: image.into(),
        hosts: Some(hosts),
        settings: Some(settings),
        ..DeclaredInstance::default()
    };
    let instances = BTreeMap::from([("main".into(), declared)]);
    FleetSpec { fleet: "shop".into(), instances, ..FleetSpec::default() }
}

async fn apply(admin: &Channel, image: &str) -> v1::ApplyResponse {
    let request = ApplyRequest { spec: Some(shop(image)), ..ApplyRequest::default() };
    FleetsClient::new(admin.clone()).apply(request).await.unwrap().into_inner()
}

/// The next desired state that is so.
async fn hear(stream: &mut Stream, is: fn(&HostSpec) -> bool) -> HostSpec {
    loop {
        match stream.hear().await {
            controller_message::Message::Desired(spec) if is(&spec) => return spec,
            controller_message::Message::Desired(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The next desired state that names an image ahead of a change.
async fn staged(stream: &mut Stream) -> HostSpec {
    hear(stream, |spec| !spec.stage.is_empty()).await
}

/// The next desired state that has an instance in it; what it is asked for before is there.
async fn desired(stream: &mut Stream) -> HostSpec {
    let spec = hear(stream, |spec| !spec.stage.is_empty() || !spec.instances.is_empty()).await;
    if !spec.instances.is_empty() {
        return spec;
    }
    stream.report(running(&spec)).await;
    hear(stream, |spec| !spec.instances.is_empty()).await
}

/// Everything of `spec` runs.
fn running(spec: &HostSpec) -> HostStatus {
    let status = |instance: &v1::InstanceSpec| {
        let image = instance.config.as_ref().unwrap().image.as_ref().unwrap();
        InstanceStatus {
            id: instance.id.clone(),
            revision: instance.revision,
            image: image.reference.clone(),
            digest: image.digest.clone(),
            state: InstanceState::Running.into(),
            health: InstanceHealth::None.into(),
            current: true,
            ..InstanceStatus::default()
        }
    };
    let image = |instance: &v1::InstanceSpec| instance.config.as_ref().unwrap().image.clone();
    let images = spec.instances.iter().filter_map(image).chain(spec.stage.clone());
    HostStatus {
        observed_generation: spec.generation,
        instances: spec.instances.iter().map(status).collect(),
        images: images.map(|image| image.digest).collect(),
        ..HostStatus::default()
    }
}

/// Follows the newest rollout of `shop` to its end.
async fn outcome(admin: &Channel) -> v1::Rollout {
    let request = WatchRolloutRequest { fleet: "shop".into(), revision: 0 };
    let mut watch = RolloutsClient::new(admin.clone()).watch(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(rollout) = timeout(PATIENCE, watch.message()).await.unwrap().unwrap() {
        last = Some(rollout);
    }
    last.unwrap()
}

/// Answers the next session that the agent is asked for.
async fn answer(stream: &mut Stream) -> (mpsc::Sender<SessionUp>, Streaming<SessionDown>) {
    let controller_message::Message::OpenSession(open) = stream.hear().await else {
        panic!("no session was asked for");
    };
    let (up, receiver) = mpsc::channel(8);
    let down = stream.link.session(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    say(&up, session_up::Message::SessionId(open.session_id)).await;
    (up, down)
}

async fn say(up: &mpsc::Sender<SessionUp>, message: session_up::Message) {
    up.send(SessionUp { message: Some(message) }).await.unwrap();
}

#[tokio::test]
async fn an_image_goes_from_a_push_to_a_host_and_the_rollout_completes() {
    let stand = Stand::new().await;
    let (admin, agent) = (stand.admin().await, stand.host("h1").await);
    let mut stream = agent.connect(&stand).await;
    let bytes = squashfs();
    assert!(bytes.len() > 4 << 20, "{}", bytes.len());
    push(&admin, &bytes, "app:1").await;
    let begin =
        BeginPushRequest { digest: digest_of(&bytes), size: u64::try_from(bytes.len()).unwrap() };
    let begun = ImagesClient::new(admin.clone()).begin_push(begin).await.unwrap().into_inner();
    assert!(begun.present);
    assert!(apply(&admin, "app:1").await.changed);
    let spec = staged(&mut stream).await;
    assert!(spec.instances.is_empty(), "nothing is begun before the image is there");
    let request = FetchImageRequest { digest: digest_of(&bytes), offset: 0 };
    let mut image = stream.link.fetch_image(request).await.unwrap().into_inner();
    let mut fetched = Vec::new();
    while let Some(chunk) = image.message().await.unwrap() {
        fetched.extend_from_slice(&chunk.data);
    }
    assert!(fetched == bytes, "{} of {} bytes, or others", fetched.len(), bytes.len());
    stream.report(running(&spec)).await;
    let spec = desired(&mut stream).await;
    stream.report(running(&spec)).await;
    let rollout = outcome(&admin).await;
    assert_eq!(rollout.state(), RolloutState::Completed);
    assert_eq!((rollout.batch, rollout.policy.unwrap().batches.len()), (1, 4));
    assert_eq!((rollout.hosts[0].name.as_str(), rollout.revision), ("h1", 1));
    assert!(!apply(&admin, "app:1").await.changed);
}

#[tokio::test]
async fn a_controller_stopped_in_a_rollout_carries_it_on() {
    let mut stand = Stand::new().await;
    let (admin, agent) = (stand.admin().await, stand.host("h1").await);
    push(&admin, &squashfs(), "app:1").await;
    apply(&admin, "app:1").await;
    stand.stop().await;
    stand.start().await;
    let admin = stand.admin().await;
    let mut stream = agent.connect(&stand).await;
    let spec = desired(&mut stream).await;
    stream.report(running(&spec)).await;
    assert_eq!(outcome(&admin).await.state(), RolloutState::Completed);
}

#[tokio::test]
async fn a_broken_push_resumes_over_the_wire() {
    let stand = Stand::new().await;
    let (first, bytes) = (stand.admin().await, squashfs());
    let (sender, receiver) = mpsc::channel(1);
    let push =
        tokio::spawn(
            async move { ImagesClient::new(first).push(ReceiverStream::new(receiver)).await },
        );
    for message in push_of(&bytes, 0, "app:1").into_iter().take(8) {
        sender.send(message).await.unwrap();
    }
    // What the connection has not carried yet goes with it.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    push.abort();
    let _ = push.await;
    drop(sender);
    let admin = stand.admin().await;
    let mut images = ImagesClient::new(admin.clone());
    // Until the controller has noticed, the image is busy, or is told to be shorter than it is.
    let resumed = async {
        loop {
            let begin = BeginPushRequest {
                digest: digest_of(&bytes),
                size: u64::try_from(bytes.len()).unwrap(),
            };
            let begun = images.begin_push(begin).await.unwrap().into_inner();
            let messages = tokio_stream::iter(push_of(&bytes, begun.received, "app:1"));
            match images.push(messages).await {
                Ok(_) => return begun.received,
                Err(status) => {
                    let passing = [Code::Aborted, Code::FailedPrecondition];
                    assert!(passing.contains(&status.code()), "{status}");
                }
            }
        }
    };
    let received = timeout(PATIENCE, resumed).await.expect("it resumes");
    assert!(received > 0, "nothing was kept");
}

#[tokio::test]
async fn logs_and_exec_reach_the_instance() {
    let stand = Stand::new().await;
    let (admin, agent) = (stand.admin().await, stand.host("h1").await);
    let mut stream = agent.connect(&stand).await;
    push(&admin, &squashfs(), "app:1").await;
    apply(&admin, "app:1").await;
    let spec = desired(&mut stream).await;
    stream.report(running(&spec)).await;
    let mut instances = InstancesClient::new(admin.clone());
    let request = LogsRequest { instance: "shop/main".into(), lines: 5, ..LogsRequest::default() };
    let asking = tokio::spawn({
        let mut instances = instances.clone();
        async move { instances.logs(request).await }
    });
    let (up, _down) = answer(&mut stream).await;
    let entry = LogEntry { message: "hello".into(), ..LogEntry::default() };
    say(&up, session_up::Message::Log(entry)).await;
    drop(up);
    let mut logs = asking.await.unwrap().unwrap().into_inner();
    let entry = logs.message().await.unwrap().unwrap();
    assert_eq!((entry.message.as_str(), entry.host.as_str()), ("hello", "h1"));
    assert_eq!(logs.message().await.unwrap(), None);

    let command = vec!["cat".to_owned()];
    let start = ExecStart { instance: "shop/main".into(), host: None, command };
    let input = [
        exec_request::Message::Start(start),
        exec_request::Message::Stdin(Bytes::from_static(b"in")),
    ];
    let input = input.map(|message| ExecRequest { message: Some(message) });
    let asking = tokio::spawn(async move { instances.exec(tokio_stream::iter(input)).await });
    let (up, mut down) = answer(&mut stream).await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.push(down.message().await.unwrap().unwrap().message.unwrap());
    }
    let wanted = [
        session_down::Message::Stdin(Bytes::from_static(b"in")),
        session_down::Message::StdinClosed(true),
    ];
    assert_eq!(heard, wanted);
    say(&up, session_up::Message::Stdout(Bytes::from_static(b"out"))).await;
    say(&up, session_up::Message::ExitCode(7)).await;
    let mut answers = asking.await.unwrap().unwrap().into_inner();
    let mut said = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        said.push(answer.message.unwrap());
    }
    let out = exec_response::Message::Stdout(Bytes::from_static(b"out"));
    assert_eq!(said, [out, exec_response::Message::ExitCode(7)]);
}

/// The version and value of the one secret that comes next.
async fn secret(stream: &mut Stream) -> (u64, Bytes) {
    let controller_message::Message::Secrets(secrets) = stream.hear().await else {
        panic!("no values")
    };
    let [value] = secrets.values.as_slice() else { panic!("{secrets:?}") };
    (value.secret.as_ref().unwrap().version, value.value.clone())
}

#[tokio::test]
async fn a_secret_goes_from_its_setting_to_the_host_and_a_new_one_by_an_apply() {
    let mut stand = Stand::new().await;
    let (admin, agent, idle) =
        (stand.admin().await, stand.host("h1").await, stand.host("h2").await);
    let (mut stream, mut other) = (agent.connect(&stand).await, idle.connect(&stand).await);
    push(&admin, &squashfs(), "app:1").await;
    let mut spec = shop("app:1");
    let declared = spec.instances.get_mut("main").unwrap();
    declared.hosts = Some(HostMatch {
        r#match: Some(host_match::Match::Names(v1::HostNames { names: vec!["h1".into()] })),
    });
    declared.secrets.insert("password".into(), "db/creator".into());
    let mut fleets = FleetsClient::new(admin.clone());
    let mut secrets = SecretsClient::new(admin.clone());
    let request = ApplyRequest { spec: Some(spec), ..ApplyRequest::default() };
    let status = fleets.apply(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("secret db/creator is not known"), "{status:?}");

    for (version, text) in [(1, "one"), (2, "two")] {
        let value = SetSecretRequest { name: "db/creator".into(), value: text.into() };
        let set = secrets.set(value).await.unwrap().into_inner();
        let users: &[&str] = if version == 1 { &[] } else { &["shop"] };
        assert_eq!(
            (set.version, set.used_by),
            (version, users.iter().map(|u| (*u).into()).collect())
        );
        assert!(fleets.apply(request.clone()).await.unwrap().into_inner().changed);
        if version == 1 {
            let spec = staged(&mut stream).await;
            stream.report(running(&spec)).await;
        }
        assert_eq!(secret(&mut stream).await, (version, text.into()));
        let spec = desired(&mut stream).await;
        stream.report(running(&spec)).await;
        assert_eq!(outcome(&admin).await.state(), RolloutState::Completed);
    }
    assert!(!fleets.apply(request).await.unwrap().into_inner().changed);
    let remove = RemoveSecretRequest { name: "db/creator".into() };
    let status = secrets.remove(remove).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let hearing = async {
        let mut heard = Vec::new();
        while let Ok(Some(message)) = other.down.message().await {
            heard.push(message);
        }
        heard
    };
    let (heard, ()) = tokio::join!(timeout(PATIENCE, hearing), stand.stop());
    assert_eq!(heard.expect("its stream ends with the controller"), [], "it names no secret");
}
