use bytes::Bytes;
use futures_util::stream;
use shoal_core::spec::RunState;
use shoal_core::status::{HostStatus, RetainedData};
use shoal_proto::v1::store::AuditRecord;
use shoal_proto::v1::{
    Instance, RunTarget, RunVerb, SessionError, exec_response, session_down, session_up,
};
use tonic::Code;

use super::*;
use crate::fleets_api::tests_support::{ADA, Lab, NOON};
use crate::sessions::Session;

async fn running() -> (Lab, Instances) {
    let lab = Lab::new().await;
    lab.apply("shop", &[("main", "app:1", "role=web"), ("db", "app:2", "h3")]).await.unwrap();
    lab.tell("shop", 1).await;
    let shutdown = CancellationToken::new();
    let instances = Instances::over(lab.records.clone(), lab.live.clone(), shutdown);
    (lab, instances)
}

async fn set(
    instances: &Instances,
    instance: &str,
    host: Option<&str>,
    verb: RunVerb,
) -> Result<Vec<RunTarget>, Refusal> {
    let host = host.map(str::to_owned);
    let request = SetRunRequest { instance: instance.into(), host, verb: verb.into() };
    Ok(instances.set_run(request, ADA, NOON).await?.targets)
}

fn shown(targets: &[RunTarget]) -> Vec<(&str, u64, bool)> {
    targets.iter().map(|t| (t.host.as_str(), t.generation, t.changed)).collect()
}

fn logs_of(instance: &str, host: Option<&str>) -> LogsRequest {
    let host = host.map(str::to_owned);
    LogsRequest { instance: instance.into(), host, lines: 10, follow: false, filter: None }
}

#[tokio::test]
async fn a_list_joins_what_is_wanted_with_what_is_there() {
    let (lab, instances) = running().await;
    let (one, three) = (lab.connect("h1"), lab.connect("h3"));
    one.converge(&lab.spec("h1").await);
    let kept = RetainedData {
        machine: "shop-old".parse().unwrap(),
        volumes: vec!["var".parse().unwrap()],
    };
    let status = HostStatus { retained: vec![kept], ..HostStatus::default() };
    lab.live.report(&three.id, status);
    // Taken away, and not yet gone.
    lab.apply("shop", &[("db", "app:2", "h3")]).await.unwrap();
    lab.tell("shop", 2).await;
    let list = async |fleet: &str, selector: &str| {
        let (fleet, selector) = (fleet.into(), selector.into());
        instances.list(ListInstancesRequest { fleet, selector }).await.unwrap()
    };
    let all = list("", "").await;
    let show = |instance: &Instance| {
        let id = match (&instance.wanted, &instance.observed) {
            (Some(spec), _) => &spec.id,
            (None, Some(status)) => &status.id,
            (None, None) => panic!("nothing of it"),
        };
        let wanted = instance.wanted.is_some();
        (format!("{id}@{}", instance.host), wanted, instance.observed.is_some())
    };
    let found: Vec<_> = all.instances.iter().map(show).collect();
    let wanted = [("shop/db@h3".to_owned(), true, false), ("shop/main@h1".to_owned(), false, true)];
    assert_eq!(found, wanted);
    assert!(all.instances[1].host_online);
    assert_eq!(all.retained[0].host, "h3");
    assert_eq!(list("", "role=db").await.instances.len(), 1);
    let unknown = ListInstancesRequest { fleet: "shpo".into(), ..Default::default() };
    let error = instances.list(unknown).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no fleet shpo (did you mean shop?)");
    let bad = ListInstancesRequest { selector: "role=".into(), ..Default::default() };
    assert!(matches!(instances.list(bad).await, Err(Refusal::Invalid(_))));
}

#[tokio::test]
async fn runs_are_set_on_all_hosts_or_the_one_named() {
    let (lab, instances) = running().await;
    let stopped = set(&instances, "shop/main", None, RunVerb::Stop).await.unwrap();
    assert_eq!(shown(&stopped), [("h1", 2, true), ("h2", 2, true)]);
    let again = set(&instances, "shop/main", Some("h2"), RunVerb::Stop).await.unwrap();
    assert_eq!(shown(&again), [("h2", 2, false)]);
    assert_eq!(lab.spec("h1").await.instances[0].run, RunState::Stopped);
    let restarted = set(&instances, "shop/main", Some("h1"), RunVerb::Restart).await.unwrap();
    assert_eq!(shown(&restarted), [("h1", 3, true)]);
    let main = lab.spec("h1").await.instances[0].clone();
    assert_eq!((main.run, main.restarts), (RunState::Running, 1));
    let started = set(&instances, "shop/main", None, RunVerb::Start).await.unwrap();
    assert_eq!(shown(&started), [("h1", 3, false), ("h2", 3, true)]);
    let audit = lab.records.list::<AuditRecord>().await.unwrap().records;
    let mut said: Vec<String> = audit
        .iter()
        .filter(|entry| entry.record.what == "Instances/SetRun")
        .map(|entry| format!("{} {}", entry.record.detail, entry.record.target))
        .collect();
    said.sort();
    let wanted =
        ["restart shop/main@h1", "start shop/main@h2", "stop shop/main@h1", "stop shop/main@h2"];
    assert_eq!(said, wanted);
}

#[tokio::test]
async fn a_stopped_instance_stays_so_through_a_new_revision() {
    let (lab, instances) = running().await;
    set(&instances, "shop/main", Some("h1"), RunVerb::Stop).await.unwrap();
    lab.apply("shop", &[("main", "app:3", "role=web")]).await.unwrap();
    lab.tell("shop", 2).await;
    let runs = [lab.spec("h1").await, lab.spec("h2").await].map(|s| s.instances[0].run);
    assert_eq!(runs, [RunState::Stopped, RunState::Running]);
}

#[tokio::test]
async fn names_that_are_not_there_are_refused_with_the_nearest() {
    let (_lab, instances) = running().await;
    for (instance, host, wanted) in [
        ("shop/mian", None, "there is no instance shop/mian (did you mean shop/main?)"),
        ("shop/main", Some("h4"), "there is no host h4 (did you mean h1?); shop/main runs on"),
        ("shop/main", Some("h3"), "shop/main does not run on host h3; it runs on h1, h2"),
    ] {
        let error = set(&instances, instance, host, RunVerb::Stop).await.unwrap_err();
        assert!(matches!(&error, Refusal::NotFound(text) if text.starts_with(wanted)), "{error}");
        let error = instances.logs(logs_of(instance, host)).await.unwrap_err();
        assert!(matches!(&error, Refusal::NotFound(text) if text.starts_with(wanted)), "{error}");
    }
    for (instance, verb) in [("shop", RunVerb::Stop), ("shop/main", RunVerb::Unspecified)] {
        let error = set(&instances, instance, None, verb).await.unwrap_err();
        assert!(matches!(error, Refusal::Invalid(_)), "{error}");
    }
}

#[tokio::test]
async fn a_session_needs_one_host_that_is_there() {
    let (_lab, instances) = running().await;
    let error = instances.logs(logs_of("shop/main", None)).await.unwrap_err();
    let Refusal::Precondition(text) = error else { panic!("{error}") };
    assert!(text.contains("name one of shop/main@h1, shop/main@h2"), "{text}");
    let error = instances.logs(logs_of("shop/main", Some("h1"))).await.unwrap_err();
    assert!(matches!(&error, Refusal::Unavailable(text) if text.contains("h1 is offline")));
}

#[tokio::test]
async fn an_exec_says_what_to_run_first_and_is_on_record() {
    let (lab, instances) = running().await;
    let start = |command: &[&str]| {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let start = ExecStart { instance: "shop/db".into(), host: None, command };
        Ok(ExecRequest { message: Some(exec_request::Message::Start(start)) })
    };
    let stdin = Ok(ExecRequest { message: Some(exec_request::Message::StdinClosed(true)) });
    for first in [stdin, start(&[]), Ok(ExecRequest::default())] {
        let error = instances.exec(stream::iter([first]), ADA, NOON).await.unwrap_err();
        assert!(matches!(error, Refusal::Invalid(_)), "{error}");
    }
    let input = stream::iter([start(&["rm", "-r", "/tmp/x"])]);
    let error = instances.exec(input, ADA, NOON).await.unwrap_err();
    assert!(matches!(error, Refusal::Unavailable(_)), "{error}");
    let audit = lab.records.list::<AuditRecord>().await.unwrap().records;
    let entry = audit.iter().find(|entry| entry.record.what == "Instances/Exec").unwrap();
    let AuditRecord { target, detail, .. } = &entry.record;
    assert_eq!((target.as_str(), detail.as_str()), ("shop/db@h3", "rm -r /tmp/x"));
}

#[tokio::test]
async fn what_is_paused_is_neither_started_nor_stopped() {
    let (lab, instances) = running().await;
    let paused = set(&instances, "shop/main", Some("h2"), RunVerb::Pause).await.unwrap();
    assert_eq!(shown(&paused), [("h2", 2, true)]);
    let again = set(&instances, "shop/main", Some("h2"), RunVerb::Pause).await.unwrap();
    assert_eq!(shown(&again), [("h2", 2, false)]);
    let before = [lab.spec("h1").await, lab.spec("h2").await];
    assert!(before[1].instances[0].paused && !before[0].instances[0].paused);
    for (verb, name) in
        [(RunVerb::Start, "start"), (RunVerb::Stop, "stop"), (RunVerb::Restart, "restart")]
    {
        let error = set(&instances, "shop/main", None, verb).await.unwrap_err();
        let Refusal::Precondition(text) = error else { panic!("{error}") };
        let wanted = format!(
            "shop/main@h2 is paused, so that no agent would {name} it; first `shoal unpause \
             shop/main@h2`"
        );
        assert_eq!(text, wanted);
    }
    assert_eq!([lab.spec("h1").await, lab.spec("h2").await], before, "nothing was done by half");
    set(&instances, "shop/main", Some("h1"), RunVerb::Stop).await.unwrap();
    set(&instances, "shop/main", None, RunVerb::Unpause).await.unwrap();
    assert!(!lab.spec("h2").await.instances[0].paused);
    set(&instances, "shop/main", None, RunVerb::Start).await.unwrap();
}

#[tokio::test]
async fn a_watcher_sees_the_list_and_what_changes_of_it() {
    let (lab, instances) = running().await;
    let one = lab.connect("h1");
    let request = ListInstancesRequest { selector: "role=web".into(), ..Default::default() };
    let mut lists = instances.watch(request).await.unwrap();
    let mut next = async || {
        let next = timeout(Duration::from_secs(10), lists.next()).await.expect("nothing came");
        next.unwrap().unwrap().instances
    };
    let first = next().await;
    assert_eq!(first.len(), 2);
    assert!(first[0].host_online && first[0].observed.is_none());
    one.converge(&lab.spec("h1").await);
    assert!(next().await[0].observed.is_some(), "a report");
    // A heartbeat is no news; a wish is.
    lab.live.heard(&one.id, Timestamp(NOON.0 + 60_000));
    set(&instances, "shop/main", Some("h2"), RunVerb::Pause).await.unwrap();
    assert!(next().await[1].wanted.as_ref().unwrap().paused, "a wish");
    lab.host("h9", "web").await;
    lab.host("h2", "other").await;
    assert_eq!(next().await.len(), 1, "h2 is no longer meant");
    drop(one);
    assert!(!next().await[0].host_online, "h1 is gone");
}

#[tokio::test]
async fn a_watch_of_nothing_is_refused_and_one_ends_with_the_controller() {
    let (lab, _) = running().await;
    let shutdown = CancellationToken::new();
    let instances = Instances::over(lab.records.clone(), lab.live.clone(), shutdown.clone());
    let request = ListInstancesRequest { fleet: "shpo".into(), ..Default::default() };
    assert!(matches!(instances.watch(request).await, Err(Refusal::NotFound(_))));
    let mut lists = instances.watch(ListInstancesRequest::default()).await.unwrap();
    assert_eq!(lists.next().await.unwrap().unwrap().instances.len(), 3);
    shutdown.cancel();
    assert_eq!(lists.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(lists.next().await.is_none());
}

/// Both ends of a session: the agent's, and the one that is piped.
fn session() -> (mpsc::Sender<session_up::Message>, mpsc::Receiver<session_down::Message>, Session)
{
    let (up_sender, up) = mpsc::channel(1);
    let (down, down_receiver) = mpsc::channel(1);
    (up_sender, down_receiver, Session { up, down })
}

fn entry(message: &str) -> session_up::Message {
    session_up::Message::Log(LogEntry { message: message.into(), ..LogEntry::default() })
}

#[tokio::test]
async fn logs_name_their_host_and_say_how_they_ended() {
    let error = session_up::Message::Error(SessionError { message: "no journal".into() });
    for (last, connected, wanted) in [
        (None, true, None),
        (None, false, Some((Code::Unavailable, "the connection to host h1 broke"))),
        (Some(error), true, Some((Code::FailedPrecondition, "host h1: no journal"))),
    ] {
        let (agent, _down, session) = session();
        let (out, mut answers) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let host = "h1".parse().unwrap();
        let task = tokio::spawn(pipe::logs(session, host, move || connected, out, shutdown));
        agent.send(entry("hello")).await.unwrap();
        if let Some(last) = last {
            agent.send(last).await.unwrap();
        }
        drop(agent);
        let first = answers.recv().await.unwrap().unwrap();
        assert_eq!((first.message.as_str(), first.host.as_str()), ("hello", "h1"));
        let end = answers.recv().await.map(Result::unwrap_err);
        assert_eq!(end.is_some(), wanted.is_some());
        if let (Some(status), Some((code, text))) = (end, wanted) {
            assert_eq!(status.code(), code);
            assert!(status.message().starts_with(text), "{status}");
        }
        task.await.unwrap();
    }
}

#[tokio::test]
async fn logs_that_the_controllers_end_cuts_off_are_not_over() {
    // Often, because chance would have it right at times.
    for _ in 0..32 {
        let (agent, _down, session) = session();
        let (out, mut answers) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        drop(agent);
        pipe::logs(session, "h1".parse().unwrap(), || true, out, shutdown).await;
        let status = answers.recv().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
    }
}

#[tokio::test]
async fn a_slow_reader_slows_the_agent() {
    let (agent, _down, session) = session();
    let (out, mut answers) = mpsc::channel(1);
    let host = "h1".parse().unwrap();
    let task = tokio::spawn(pipe::logs(session, host, || true, out, CancellationToken::new()));
    let sender = tokio::spawn(async move {
        for number in 0..100 {
            agent.send(entry(&number.to_string())).await.unwrap();
        }
    });
    // As many as fit on the way, and not one more, however long it takes.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!sender.is_finished());
    for number in 0..100 {
        assert_eq!(answers.recv().await.unwrap().unwrap().message, number.to_string());
    }
    assert!(answers.recv().await.is_none());
    task.await.unwrap();
}

#[tokio::test]
async fn an_exec_carries_all_streams_and_the_exit_code() {
    let (agent, mut down, session) = session();
    let (out, mut answers) = mpsc::channel(1);
    let stdin = exec_request::Message::Stdin(Bytes::from_static(b"in"));
    let input = stream::iter([Ok(ExecRequest { message: Some(stdin) })]);
    let host = "h1".parse().unwrap();
    let task = tokio::spawn(pipe::exec(session, host, input, out, CancellationToken::new()));
    let got = down.recv().await.unwrap();
    assert_eq!(got, session_down::Message::Stdin(Bytes::from_static(b"in")));
    assert_eq!(down.recv().await.unwrap(), session_down::Message::StdinClosed(true));
    let bytes = Bytes::from_static;
    let said = [
        session_up::Message::Stdout(bytes(b"out")),
        session_up::Message::Stderr(bytes(b"err")),
        session_up::Message::ExitCode(3),
    ];
    let sender = tokio::spawn(async move {
        for message in said {
            agent.send(message).await.unwrap();
        }
        agent
    });
    let mut answer = async || answers.recv().await.map(|answer| answer.unwrap().message.unwrap());
    assert_eq!(answer().await, Some(exec_response::Message::Stdout(bytes(b"out"))));
    assert_eq!(answer().await, Some(exec_response::Message::Stderr(bytes(b"err"))));
    assert_eq!(answer().await, Some(exec_response::Message::ExitCode(3)));
    assert_eq!(answer().await, None);
    task.await.unwrap();
    assert!(sender.await.unwrap().is_closed(), "the agent's side ends with it");
}

#[tokio::test]
async fn an_exec_ends_with_the_agent_the_caller_or_the_controller() {
    let waiting = || stream::pending::<Result<ExecRequest, Status>>();
    // The agent goes.
    let (agent, _down, first) = session();
    let (out, mut answers) = mpsc::channel(1);
    let host = || "h1".parse().unwrap();
    drop(agent);
    pipe::exec(first, host(), waiting(), out, CancellationToken::new()).await;
    let status = answers.recv().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("may still run"), "{status}");
    // The caller goes.
    let (agent, _down, second) = session();
    let (out, answers) = mpsc::channel(1);
    drop(answers);
    pipe::exec(second, host(), waiting(), out, CancellationToken::new()).await;
    assert!(agent.is_closed());
    // The controller goes.
    let (_agent, _down, third) = session();
    let (out, mut answers) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    pipe::exec(third, host(), waiting(), out, shutdown).await;
    assert_eq!(answers.recv().await.unwrap().unwrap_err().code(), Code::Unavailable);
}
