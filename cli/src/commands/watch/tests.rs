use std::collections::VecDeque;
use std::sync::Mutex;

use clap::Parser as _;
use shoal_proto::v1::rollouts_server::{Rollouts, RolloutsServer};
use shoal_proto::v1::{
    ListRolloutsRequest, ListRolloutsResponse, OutcomeKind, Rollout, RolloutState,
};
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::args::Cli;
use crate::testing::Site;
use crate::view::samples::rollout;

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
}

fn shell() -> Shell {
    Shell::new(Cli::try_parse_from(["shoal", "version"]).unwrap().globals)
}

async fn followed(streams: Vec<Vec<Result<Rollout, Status>>>) -> Result<RolloutView, Failure> {
    let fake = Fake { streams: Mutex::new(streams.into()) };
    let client = Site::new().client(Server::builder().add_service(RolloutsServer::new(fake))).await;
    follow(&shell(), &client, &"shop".parse().unwrap(), 0, Some(Duration::from_secs(30))).await
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
    assert!(conclude(&ended).is_ok());
    assert_eq!(success(&ended), "fleet shop is at revision 3: 1 host ready");
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

#[test]
fn each_end_has_its_error_and_code() {
    let hosts = [
        ("h1", OutcomeKind::Ready, ""),
        ("h2", OutcomeKind::Failed, "shop/main: exit code 1"),
        ("h3", OutcomeKind::Offline, ""),
    ];
    let ends = [
        (RolloutState::Failed, 3),
        (RolloutState::Partial, 5),
        (RolloutState::TimedOut, 6),
        (RolloutState::Superseded, 7),
        (RolloutState::Changing, 6),
    ];
    let mut texts = Vec::new();
    for (state, code) in ends {
        let view = RolloutView::try_from(rollout(state, &hosts)).unwrap();
        let failure = Failure::from(conclude(&view).unwrap_err());
        assert_eq!(failure.exit().code(), code, "{state:?}");
        texts.push(failure.report().unwrap());
    }
    insta::assert_snapshot!(texts.join("\n\n"));
}
