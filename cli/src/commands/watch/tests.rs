use std::collections::VecDeque;
use std::sync::Mutex;

use clap::Parser as _;
use shoal_proto::v1::rollouts_server::{Rollouts, RolloutsServer};
use shoal_proto::v1::{
    ControlRolloutRequest, ControlRolloutResponse, HoldKind as Held, ListRolloutsRequest,
    ListRolloutsResponse, LockRequest, LockResponse, OutcomeKind, Rollout, RolloutState,
    UndoRequest, UndoResponse, UnlockRequest, UnlockResponse,
};
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::args::Cli;
use crate::testing::Site;
use crate::view::samples::{MINUTE, NOW, hold, rollout, second_batch};

/// Gives one prepared stream for each call, and remembers which revisions were asked for.
#[derive(Debug)]
struct Fake {
    streams: Mutex<VecDeque<Vec<Result<Rollout, Status>>>>,
}

#[tonic::async_trait]
impl Rollouts for Fake {
    type WatchStream = tokio_stream::Iter<std::vec::IntoIter<Result<Rollout, Status>>>;

    async fn list(
        &self,
        _: Request<ListRolloutsRequest>,
    ) -> Result<Response<ListRolloutsResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn watch(
        &self,
        request: Request<WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut streams = self.streams.lock().unwrap();
        let next = streams.pop_front().ok_or_else(|| Status::internal("asked too often"))?;
        let revision = request.into_inner().revision;
        if revision != 0 && revision != 3 {
            return Err(Status::not_found("no such revision"));
        }
        Ok(Response::new(tokio_stream::iter(next)))
    }

    async fn control(
        &self,
        _: Request<ControlRolloutRequest>,
    ) -> Result<Response<ControlRolloutResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn undo(&self, _: Request<UndoRequest>) -> Result<Response<UndoResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn lock(&self, _: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn unlock(&self, _: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }
}

fn shell() -> Shell {
    Shell::new(Cli::try_parse_from(["shoal", "version"]).unwrap().globals)
}

async fn followed(streams: Vec<Vec<Result<Rollout, Status>>>) -> Result<RolloutView, Failure> {
    followed_for(Patience::Limited(Duration::from_secs(30)), streams).await
}

async fn followed_for(
    patience: Patience,
    streams: Vec<Vec<Result<Rollout, Status>>>,
) -> Result<RolloutView, Failure> {
    let fake = Fake { streams: Mutex::new(streams.into()) };
    let client = Site::new().client(Server::builder().add_service(RolloutsServer::new(fake))).await;
    follow(&shell(), &client, &"shop".parse().unwrap(), 0, patience).await
}

fn changing() -> Rollout {
    rollout(RolloutState::Changing, &[("h1", OutcomeKind::Changing, "waits for the agent")])
}

fn completed() -> Rollout {
    rollout(RolloutState::Completed, &[("h1", OutcomeKind::Ready, "")])
}

#[tokio::test]
async fn a_rollout_is_followed_to_its_end() {
    let ended = followed(vec![vec![Ok(changing()), Ok(completed())]]).await.unwrap();
    assert_eq!(ended.state, State::Completed);
    let said = conclude(&ended, Goal::Forward).unwrap();
    assert_eq!(said, "fleet shop is at revision 3: 1 host ready");
}

#[tokio::test]
async fn a_controller_that_restarts_meanwhile_is_waited_for() {
    let leaving = || Err(Status::unavailable("the controller is shutting down"));
    for end in [None, Some(leaving())] {
        let first = [Ok(changing())].into_iter().chain(end).collect();
        let streams = vec![first, vec![Ok(changing()), Ok(completed())]];
        assert_eq!(followed(streams).await.unwrap().state, State::Completed);
    }
}

#[tokio::test]
async fn a_refusal_is_not_waited_out() {
    let failure = followed(vec![vec![Err(Status::permission_denied("no"))]]).await.unwrap_err();
    assert_eq!(failure.exit(), crate::exit::Exit::Refused);
}

#[tokio::test]
async fn a_hold_that_asks_for_someone_ends_the_waiting() {
    let held = |kind| Rollout {
        hold: hold(kind, "why"),
        // Far from now, by any clock.
        deadline_ms: u64::MAX / 2,
        ..changing()
    };
    for (kind, code) in [(Held::Failure, 14), (Held::Promotion, 15), (Held::Window, 15)] {
        let stream = vec![Ok(changing()), Ok(held(kind)), Ok(completed())];
        let view = followed(vec![stream.clone()]).await.unwrap();
        let failure = Failure::from(conclude(&view, Goal::Forward).unwrap_err());
        assert_eq!(failure.exit().code(), code, "{kind:?}");
        let view = followed_for(Patience::ToTheEnd, vec![stream]).await.unwrap();
        assert_eq!(view.state, State::Completed, "who watches waits for the end");
    }
    let stream = vec![Ok(held(Held::Operator)), Ok(changing()), Ok(completed())];
    assert_eq!(followed(vec![stream]).await.unwrap().state, State::Completed);
}

#[test]
fn only_a_window_that_opens_in_time_is_waited_for() {
    let (minute, now) = (Duration::from_millis(MINUTE), Timestamp(NOW));
    let opens_in = |minutes: u64| {
        let wire = Rollout {
            hold: hold(Held::Window, "no maintenance window is open"),
            deadline_ms: NOW + (8 + minutes) * MINUTE,
            ..changing()
        };
        RolloutView::try_from(wire).unwrap()
    };
    assert!(!asks_for_someone(&opens_in(9), now, minute * 10));
    assert!(asks_for_someone(&opens_in(11), now, minute * 10));
}

#[test]
fn going_back_and_going_on_have_their_time() {
    let view = |state| RolloutView::try_from(second_batch(state)).unwrap();
    let (changing, back) = (view(RolloutState::Changing), view(RolloutState::RollingBack));
    let limit = Duration::from_secs(600);
    let held = Rollout { hold: hold(Held::Operator, "x"), ..second_batch(RolloutState::Changing) };
    let held = RolloutView::try_from(held).unwrap();
    let table = [
        (&changing, None, Duration::ZERO),
        (&changing, Some(&changing), Duration::ZERO),
        (&back, Some(&changing), limit + GRACE),
        (&back, Some(&held), limit + GRACE),
        (&back, Some(&back), Duration::ZERO),
        (&held, Some(&changing), Duration::ZERO),
        (&changing, Some(&held), Duration::from_millis(8 * MINUTE) + GRACE),
    ];
    for (at, (rollout, before, expected)) in table.into_iter().enumerate() {
        assert_eq!(more_time(rollout, before, limit), expected, "{at}");
    }
}

#[test]
fn each_end_has_its_error_and_code() {
    let hosts = [
        ("h1", OutcomeKind::Ready, ""),
        ("h2", OutcomeKind::Failed, "shop/main: exit code 1"),
        ("h3", OutcomeKind::Offline, ""),
        ("h4", OutcomeKind::Pending, ""),
    ];
    let ends = [
        (RolloutState::Failed, None, 3),
        (RolloutState::RolledBack, None, 4),
        (RolloutState::Partial, None, 5),
        (RolloutState::TimedOut, None, 6),
        (RolloutState::Superseded, None, 7),
        (RolloutState::Aborted, None, 14),
        (RolloutState::Changing, None, 6),
        (RolloutState::Changing, Some(Held::Failure), 14),
        (RolloutState::Planned, Some(Held::Promotion), 15),
        (RolloutState::Changing, Some(Held::Operator), 15),
        (RolloutState::Planned, Some(Held::Window), 15),
    ];
    let mut texts = Vec::new();
    for (state, held, code) in ends {
        let wire = Rollout {
            cause: "shop/main: exit code 1".into(),
            hold: held.and_then(|kind| hold(kind, "why it is held")),
            ..rollout(state, &hosts)
        };
        let view = RolloutView::try_from(wire).unwrap();
        let failure = Failure::from(conclude(&view, Goal::Forward).unwrap_err());
        assert_eq!(failure.exit().code(), code, "{state:?}");
        let report = failure.report().unwrap();
        assert_eq!(report.lines().count(), 1, "{report}");
        texts.push(format!("{code}: {report}"));
    }
    insta::assert_snapshot!(texts.join("\n\n"));
}

#[test]
fn who_was_not_told_does_not_catch_up() {
    let mut wire = rollout(RolloutState::Partial, &[("h1", OutcomeKind::Offline, "")]);
    wire.hosts[0].generation = None;
    let view = RolloutView::try_from(wire).unwrap();
    let error = conclude(&view, Goal::Forward).unwrap_err().to_string();
    assert!(error.contains("not told of it: h1; apply again"), "{error}");
}

#[test]
fn who_wants_to_go_back_succeeds_by_being_back() {
    let hosts = [("h1", OutcomeKind::Back, ""), ("h2", OutcomeKind::Offline, "")];
    let view = |state| RolloutView::try_from(rollout(state, &hosts)).unwrap();
    let said = conclude(&view(RolloutState::RolledBack), Goal::Back).unwrap();
    assert_eq!(said, "fleet shop is back at revision 2: 1 host back (offline: h2)");
    let through = conclude(&view(RolloutState::Completed), Goal::Back).unwrap_err();
    assert_eq!(Failure::from(through).exit().code(), 7);
    let failed = conclude(&view(RolloutState::Failed), Goal::Back).unwrap_err();
    assert_eq!(Failure::from(failed).exit().code(), 3);
}
