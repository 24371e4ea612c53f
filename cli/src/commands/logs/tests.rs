//! Logs of a controller in memory, whose streams do what a test says.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use shoal_proto::v1::instances_server::{Instances, InstancesServer};
use shoal_proto::v1::{
    ExecRequest, ExecResponse, ListInstancesRequest, ListInstancesResponse, LogEntry,
    SetRunRequest, SetRunResponse,
};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::output::OutputError;
use crate::testing::Site;

type Lines = Pin<Box<dyn Stream<Item = Result<LogEntry, Status>> + Send>>;
type Lists = stream::Pending<Result<ListInstancesResponse, Status>>;

/// What the next call for an instance's logs gives.
enum Answer {
    Refused(Status),
    /// These, and then the end or an error.
    Entries(Vec<LogEntry>, Option<Status>),
    /// These, and then nothing for ever.
    Stays(Vec<LogEntry>),
}

/// Answers by host, in their order, and what was asked.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<BTreeMap<String, VecDeque<Answer>>>>,
    asked: Arc<Mutex<Vec<LogsRequest>>>,
}

#[tonic::async_trait]
impl Instances for Fake {
    type LogsStream = Lines;
    type WatchStream = Lists;
    type ExecStream = stream::Pending<Result<ExecResponse, Status>>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Lines>, Status> {
        let request = request.into_inner();
        let host = request.host.clone().unwrap_or_default();
        self.asked.lock().unwrap().push(request);
        let answer = self.answers.lock().unwrap().get_mut(&host).and_then(VecDeque::pop_front);
        let lines: Lines = match answer {
            None => stream::pending().boxed(),
            Some(Answer::Refused(status)) => return Err(status),
            Some(Answer::Entries(entries, end)) => {
                stream::iter(entries.into_iter().map(Ok).chain(end.map(Err))).boxed()
            }
            Some(Answer::Stays(entries)) => {
                stream::iter(entries.into_iter().map(Ok)).chain(stream::pending()).boxed()
            }
        };
        Ok(Response::new(lines))
    }

    async fn list(
        &self,
        _: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        Err(Status::unimplemented("not for these tests"))
    }

    async fn watch(
        &self,
        _: Request<ListInstancesRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not for these tests"))
    }

    async fn set_run(&self, _: Request<SetRunRequest>) -> Result<Response<SetRunResponse>, Status> {
        Err(Status::unimplemented("not for these tests"))
    }

    async fn exec(
        &self,
        _: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented("not for these tests"))
    }
}

/// Remembers what it is shown.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<String>>>);

impl Show for Shown {
    fn entry(&mut self, at: usize, entry: LogEntry) -> Result<(), OutputError> {
        self.0.lock().unwrap().push(format!("{at} {}", entry.message));
        Ok(())
    }

    fn note(&mut self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Shown {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

struct World {
    fake: Fake,
    client: Client,
    shown: Shown,
}

impl World {
    async fn new(answers: Vec<(&str, Vec<Answer>)>) -> Self {
        let fake = Fake::default();
        for (host, of_host) in answers {
            fake.answers.lock().unwrap().insert(host.into(), of_host.into());
        }
        let router = Server::builder().add_service(InstancesServer::new(fake.clone()));
        let client = Site::new().client(router).await;
        Self { fake, client, shown: Shown::default() }
    }

    async fn show(&self, lines: u32, follow: bool) -> Result<Exit, Failure> {
        let asked = Asked { lines, filter: LogFilter::default() };
        let hosts: Vec<String> = self.fake.answers.lock().unwrap().keys().cloned().collect();
        let source = |host| Source { instance: "shop/web".into(), host };
        let sources = hosts.into_iter().map(source).collect();
        let mut shown = self.shown.clone();
        show(&self.client, &asked, sources, follow, &mut shown).await
    }

    /// Follows until so much was shown.
    async fn follow(&self, lines: u32, count: usize) -> Vec<String> {
        let enough = async {
            while self.shown.all().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = self.show(lines, true) => panic!("it ended: {ended:?}"),
            () = enough => {}
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{:?}", self.shown.all()),
        }
        self.shown.all()
    }

    fn asked(&self) -> Vec<LogsRequest> {
        self.fake.asked.lock().unwrap().clone()
    }
}

const SECOND: u64 = 1_000_000;

fn entry(time_us: u64, message: &str) -> LogEntry {
    LogEntry { time_us, message: message.into(), ..LogEntry::default() }
}

fn offline() -> Status {
    Status::unavailable("host h2 is offline since yesterday")
}

#[tokio::test]
async fn several_instances_are_one_by_time() {
    let one = vec![entry(1, "a"), entry(4, "d"), entry(5, "e")];
    let two = vec![entry(2, "b"), entry(3, "c"), entry(6, "f")];
    let answers = |entries| vec![Answer::Entries(entries, None)];
    let world = World::new(vec![("h1", answers(one)), ("h2", answers(two))]).await;
    assert_eq!(world.show(7, false).await.unwrap(), Exit::Done);
    assert_eq!(world.shown.all(), ["0 a", "1 b", "1 c", "0 d", "0 e", "1 f"]);
    assert!(world.asked().iter().all(|request| request.lines == 7 && !request.follow));
}

#[tokio::test]
async fn more_than_fits_on_the_way_holds_up_nothing() {
    // All of one host is older than all of the other, whose entries have to wait; of both there is
    // far more than a connection's usual window.
    let long = "x".repeat(4000);
    let many = |from: u64| (0..1000).map(|at| entry(from + at, &long)).collect::<Vec<_>>();
    let hosts: Vec<String> = (0..12).map(|number| format!("h{number:02}")).collect();
    let answers = hosts.iter().zip(0..).map(|(host, number)| {
        let entries = many((100 - number) * 10_000);
        (host.as_str(), vec![Answer::Entries(entries, None)])
    });
    let world = World::new(answers.collect()).await;
    let shown = tokio::time::timeout(Duration::from_secs(60), world.show(ALL, false)).await;
    assert_eq!(shown.expect("it stands still").unwrap(), Exit::Done);
    assert_eq!(world.shown.all().len(), 12_000);
}

#[tokio::test]
async fn a_host_that_is_offline_hides_no_other() {
    let one = vec![Answer::Entries(vec![entry(1, "a")], None)];
    let world = World::new(vec![("h1", one), ("h2", vec![Answer::Refused(offline())])]).await;
    let failure = world.show(7, false).await.unwrap_err();
    assert_eq!(world.shown.all(), ["0 a"]);
    assert_eq!(failure.exit(), Exit::HostOffline);
    insta::assert_snapshot!(failure.report().unwrap());
}

#[tokio::test]
async fn a_stream_that_breaks_is_told_of_after_all_that_came() {
    let broken = Status::failed_precondition("host h1: journalctl: Bad pattern \"(\"");
    let one = vec![Answer::Entries(vec![entry(1, "a")], Some(broken))];
    let two = vec![Answer::Refused(offline())];
    let three = vec![Answer::Entries(vec![entry(2, "b")], None)];
    let world = World::new(vec![("h1", one), ("h2", two), ("h3", three)]).await;
    let failure = world.show(7, false).await.unwrap_err();
    assert_eq!(world.shown.all(), ["0 a", "2 b"]);
    assert_eq!(failure.exit(), Exit::Precondition, "what is worse than being offline");
    let report = failure.report().unwrap();
    assert!(report.contains("of 2 instances of 3") && report.contains("Bad pattern"), "{report}");
}

#[tokio::test]
async fn the_failure_of_a_single_instance_is_its_own() {
    for follow in [false, true] {
        let world = World::new(vec![("h2", vec![Answer::Refused(offline())])]).await;
        let failure = world.show(7, follow).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::HostOffline);
        let report =
            "error: cannot show the logs of shop/web@h2: host h2 is offline since yesterday";
        assert_eq!(failure.report().as_deref(), Some(report));
    }
}

#[tokio::test]
async fn following_goes_on_where_it_broke_off_and_says_nothing_twice() {
    let broken = || Some(Status::unavailable("the connection to host h1 broke"));
    let (a, b, c) = (entry(10 * SECOND, "a"), entry(11 * SECOND, "b"), entry(12 * SECOND, "c"));
    let one = vec![
        Answer::Entries(vec![a.clone()], None),
        Answer::Entries(vec![a.clone(), b.clone()], broken()),
        Answer::Refused(offline()),
        Answer::Refused(offline()),
        Answer::Stays(vec![a, b, c]),
    ];
    let world = World::new(vec![("h1", one)]).await;
    let shown = world.follow(7, 5).await;
    assert_eq!(shown, ["0 a", "0 b", "h1 is gone; waiting for it", "h1 is back", "0 c"]);
    let asked = world.asked();
    let since: Vec<Option<u64>> =
        asked.iter().map(|request| request.filter.as_ref().unwrap().since_us).collect();
    assert_eq!(since[..3], [None, Some(8 * SECOND), Some(9 * SECOND)]);
    let lines: Vec<(u32, bool)> = asked.iter().map(|r| (r.lines, r.follow)).collect();
    assert_eq!(lines[..3], [(7, false), (ALL, true), (ALL, true)]);
}

#[tokio::test]
async fn a_stream_that_ends_and_comes_again_at_once_is_not_worth_a_word() {
    let one = vec![
        Answer::Entries(vec![], None),
        Answer::Entries(vec![entry(SECOND, "a")], None),
        Answer::Entries(vec![], Some(Status::unavailable("the controller is shutting down"))),
        Answer::Stays(vec![entry(SECOND, "a"), entry(2 * SECOND, "b")]),
    ];
    let world = World::new(vec![("h1", one)]).await;
    assert_eq!(world.follow(7, 2).await, ["0 a", "0 b"]);
}

#[tokio::test]
async fn without_old_entries_none_come_later() {
    let one = vec![
        Answer::Entries(vec![], None),
        Answer::Entries(vec![], None),
        Answer::Stays(vec![entry(SECOND, "a")]),
    ];
    let world = World::new(vec![("h1", one)]).await;
    world.follow(0, 1).await;
    let since = world.asked().last().unwrap().filter.as_ref().unwrap().since_us;
    assert!(since.is_some_and(|since| since > 1_000 * SECOND), "{since:?}");
}

#[tokio::test]
async fn hosts_that_were_offline_at_the_start_are_waited_for() {
    let one = vec![Answer::Entries(vec![entry(1, "a")], None)];
    let two = vec![Answer::Refused(offline()), Answer::Stays(vec![entry(2, "b")])];
    let world = World::new(vec![("h1", one), ("h2", two)]).await;
    let shown = world.follow(7, 4).await;
    assert_eq!(shown[0], "0 a");
    assert!(shown[1].ends_with("is offline since yesterday; waiting for it"), "{shown:?}");
    assert_eq!(shown[2..], ["h2 is back", "1 b"]);
}

#[tokio::test]
async fn what_can_never_be_read_ends_without_holding_up_the_others() {
    let bad = || Status::failed_precondition("host h1: journalctl: Bad pattern");
    let one = vec![Answer::Refused(bad())];
    let two = vec![Answer::Entries(vec![], None), Answer::Stays(vec![entry(2, "b")])];
    let world = World::new(vec![("h1", one), ("h2", two)]).await;
    let mut shown = world.follow(7, 2).await;
    shown.sort();
    assert_eq!(shown[0], "1 b");
    assert!(shown[1].starts_with("error: cannot show the logs of shop/web@h1"), "{shown:?}");
    let all = World::new(vec![("h1", vec![Answer::Refused(bad())])]).await;
    assert_eq!(all.show(7, true).await.unwrap_err().exit(), Exit::Precondition);
}

#[test]
fn times_have_an_order() {
    let args = |since: u64, until: u64| LogsArgs {
        targets: vec![],
        selector: None,
        follow: false,
        lines: None,
        since: Some(crate::when::When(since)),
        until: Some(crate::when::When(until)),
        unit: None,
        priority: None,
        grep: None,
    };
    assert!(matches!(Asked::of(&args(2, 1)), Err(LogsError::Backwards)));
    assert_eq!(Asked::of(&args(1, 2)).unwrap().lines, ALL);
    assert_eq!(Asked::of(&LogsArgs { since: None, ..args(1, 2) }).unwrap().lines, LINES);
    assert_eq!(Asked::of(&LogsArgs { lines: Some(3), ..args(1, 2) }).unwrap().lines, 3);
}
