//! Against a controller that goes away in the middle.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use shoal_core::name::HostName;
use shoal_proto::v1::hosts_server::{Hosts, HostsServer};
use shoal_proto::v1::{
    CordonHostRequest, CordonHostResponse, CreateTokenRequest, CreateTokenResponse, DrainEnd,
    DrainHostResponse, DrainingFleet, GetHostRequest, GetHostResponse, LabelHostRequest,
    LabelHostResponse, ListHostsRequest, ListHostsResponse, ListTokensRequest, ListTokensResponse,
    RemoveHostRequest, RemoveHostResponse, RevokeTokenRequest, RevokeTokenResponse,
    UncordonHostRequest, UncordonHostResponse,
};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::*;
use crate::args::{Color, Format};
use crate::exit::Exit;
use crate::output::{Console, Surroundings};
use crate::testing::Site;

type Script = Vec<Result<DrainHostResponse, Status>>;

/// Each call gets the next script.
#[derive(Debug, Clone)]
struct Fake {
    scripts: Arc<Mutex<Vec<Script>>>,
    asked: Arc<Mutex<Vec<DrainHostRequest>>>,
}

type Answer<'f, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'f>>;

/// What a drain never calls.
macro_rules! never {
    ($($rpc:ident: $request:ty => $response:ty),* $(,)?) => {
        // As `async_trait` writes it, which does not look into macros.
        $(fn $rpc<'s, 'f>(&'s self, _: Request<$request>) -> Answer<'f, $response>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($rpc))) })
        })*
    };
}

#[tonic::async_trait]
impl Hosts for Fake {
    type DrainStream = tokio_stream::Iter<std::vec::IntoIter<Result<DrainHostResponse, Status>>>;

    async fn drain(
        &self,
        request: Request<DrainHostRequest>,
    ) -> Result<Response<Self::DrainStream>, Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        let script = self.scripts.lock().unwrap().remove(0);
        Ok(Response::new(tokio_stream::iter(script)))
    }

    never! {
        create_token: CreateTokenRequest => CreateTokenResponse,
        list_tokens: ListTokensRequest => ListTokensResponse,
        revoke_token: RevokeTokenRequest => RevokeTokenResponse,
        list: ListHostsRequest => ListHostsResponse,
        get: GetHostRequest => GetHostResponse,
        label: LabelHostRequest => LabelHostResponse,
        cordon: CordonHostRequest => CordonHostResponse,
        uncordon: UncordonHostRequest => UncordonHostResponse,
        remove: RemoveHostRequest => RemoveHostResponse,
    }
}

fn report(end: DrainEnd, why: &str) -> Result<DrainHostResponse, Status> {
    let fleet = DrainingFleet {
        fleet: "shop".into(),
        instances: vec!["shop/web".into()],
        why: why.into(),
        over: end == DrainEnd::Left,
        rollout: None,
    };
    let fleets = if end == DrainEnd::Empty { vec![] } else { vec![fleet] };
    Ok(DrainHostResponse { fleets, retained: vec![], end: end.into() })
}

/// Drains h2 with what the controller answers; how it ended, and what was asked.
async fn drained(scripts: Vec<Script>) -> (Result<DrainView, Failure>, Vec<DrainHostRequest>) {
    let asked = Arc::default();
    let fake = Fake { scripts: Arc::new(Mutex::new(scripts)), asked: Arc::clone(&asked) };
    let client = Site::new().client(Server::builder().add_service(HostsServer::new(fake))).await;
    let around = Surroundings {
        stdout_is_terminal: false,
        stderr_is_terminal: false,
        no_color: true,
        plain: true,
    };
    let console = Console::new(Format::Table, Color::Never, around);
    let name: HostName = "h2".parse().unwrap();
    let args = DrainArgs { name, timeout: Duration::from_secs(60), reason: Some("disk".into()) };
    let ended = drainer(console, &client, args).run().await;
    let asked = asked.lock().unwrap().clone();
    (ended, asked)
}

#[tokio::test]
async fn a_controller_that_goes_away_is_asked_again_for_the_rest() {
    let scripts = vec![
        vec![report(DrainEnd::Unspecified, "begins")],
        vec![Err(Status::unavailable("the controller shuts down"))],
        vec![report(DrainEnd::Unspecified, "goes on"), report(DrainEnd::Empty, "")],
    ];
    let (ended, asked) = drained(scripts).await;
    assert_eq!(ended.unwrap().state, State::Empty);
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|asked| asked.name == "h2" && asked.reason == "disk"));
    assert_eq!(asked[0].timeout_ms, 60_000);
    assert!(asked[2].timeout_ms < 60_000, "{asked:?}");
}

#[tokio::test]
async fn a_refusal_is_no_outage() {
    let (ended, asked) = drained(vec![vec![Err(Status::aborted("it was uncordoned"))]]).await;
    let failure = ended.unwrap_err();
    assert_eq!((failure.exit(), asked.len()), (Exit::Conflict, 1));
    let (ended, _) = drained(vec![vec![Err(Status::unavailable("later"))]]).await;
    assert_eq!(ended.unwrap_err().exit(), Exit::Unreachable, "it never began");
}

#[tokio::test]
async fn what_is_left_is_told_with_a_code_of_its_own() {
    let table = [
        (DrainEnd::Left, Exit::Partial, "waiting does not help:\n  shop/web: why\n"),
        (DrainEnd::TimedOut, Exit::TimedOut, "the time is up:\n  shop/web: why\n"),
    ];
    for (end, exit, words) in table {
        let (ended, _) = drained(vec![vec![report(end, "why")]]).await;
        let failure = Failure::from(conclude(&ended.unwrap()).unwrap_err());
        assert_eq!(failure.exit(), exit);
        let report = failure.report().unwrap();
        assert!(report.contains(words) && report.contains("shoal host uncordon h2"), "{report}");
    }
    let interrupted = Failure::from(DrainError::Interrupted { host: "h2".into() });
    assert_eq!(interrupted.exit(), Exit::Interrupted);
}
