//! Against a controller in memory, one that is silent, and none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shoal_proto::v1::fleets_server::{Fleets, FleetsServer};
use shoal_proto::v1::{
    ApplyRequest, ApplyResponse, GetFleetStatusRequest, GetFleetStatusResponse, ListFleetsResponse,
    PlanRequest, PlanResponse,
};
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::testing::Site;

/// Lists one fleet more each time it is asked.
#[derive(Debug, Clone, Default)]
struct Fake(Arc<AtomicUsize>);

#[tonic::async_trait]
impl Fleets for Fake {
    async fn plan(&self, _: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        Err(Status::unimplemented("plan"))
    }

    async fn apply(&self, _: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        Err(Status::unimplemented("apply"))
    }

    async fn list(
        &self,
        _: Request<ListFleetsRequest>,
    ) -> Result<Response<ListFleetsResponse>, Status> {
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        let fleet = |name: String| shoal_proto::v1::Fleet { name, ..Default::default() };
        let named = (0..number).map(|at| fleet(format!("f{at}")));
        let fleets = named.chain([fleet("no name\n".to_owned())]).collect();
        Ok(Response::new(ListFleetsResponse { fleets }))
    }

    async fn get_status(
        &self,
        _: Request<GetFleetStatusRequest>,
    ) -> Result<Response<GetFleetStatusResponse>, Status> {
        Err(Status::unimplemented("status"))
    }
}

/// A user with two contexts for the controller at an address, and a cache.
struct User {
    dir: tempfile::TempDir,
}

impl User {
    fn new(context: &context::Context) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            format!(
                "[context.{name}]\ncontroller = {:?}\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
                context.controller, context.ca, context.certificate, context.key
            )
        };
        let config = format!("current = \"one\"\n{}{}", of("one"), of("two"));
        shoal_tls::write_private(&dir.path().join("config.toml"), config.as_bytes()).unwrap();
        Self { dir }
    }

    fn asker(&self, patience: Duration) -> Asker {
        Asker {
            config: Some(self.dir.path().join("config.toml")),
            context: None,
            cache: Some(Cache::in_directory(self.dir.path().join("cache"))),
            deadline: Instant::now() + patience,
        }
    }
}

/// Asks as completion does: with no runtime of its own around it.
async fn names(asker: Asker) -> Vec<String> {
    let asked = tokio::task::spawn_blocking(move || asker.fleets());
    asked.await.unwrap().into_iter().map(|fleet| fleet.name).collect()
}

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_controller_is_asked_once_for_a_while() {
    let (site, fake) = (Site::new(), Fake::default());
    let router = Server::builder().add_service(FleetsServer::new(fake.clone()));
    let user = User::new(&site.context(&site.serve(router).await));
    assert_eq!(names(user.asker(PATIENCE)).await, ["f0"]);
    assert_eq!(names(user.asker(PATIENCE)).await, ["f0"]);
    assert_eq!(fake.0.load(Ordering::SeqCst), 1);

    let mut uncached = user.asker(PATIENCE);
    uncached.cache = None;
    assert_eq!(names(uncached).await, ["f0", "f1"]);

    let mut unknown = user.asker(PATIENCE);
    unknown.context = Some("three".into());
    assert!(names(unknown).await.is_empty());
    // What the controller does not know, or does not tell this user.
    let asker = user.asker(PATIENCE);
    assert!(tokio::task::spawn_blocking(move || asker.images()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_silent_controller_is_given_up_and_not_tried_again_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let user = User::new(&Site::new().context(&listener.local_addr().unwrap().to_string()));
    let patience = Duration::from_millis(200);
    let (first, begun) = (user.asker(patience), Instant::now());
    assert!(names(first).await.is_empty());
    let took = begun.elapsed();
    assert!(took >= patience && took < PATIENCE, "{took:?}");
    // With all the patience in the world, were it asked.
    let (second, begun) = (user.asker(PATIENCE), Instant::now());
    assert!(names(second).await.is_empty());
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn without_a_controller_contexts_are_known() {
    let user = User::new(&Site::new().context("127.0.0.1:1"));
    assert!(names(user.asker(PATIENCE)).await.is_empty());
    let contexts = user.asker(PATIENCE).contexts();
    let known: Vec<_> = contexts.iter().map(|one| (one.name.as_str(), one.current)).collect();
    assert_eq!(known, [("one", true), ("two", false)]);
    let mut astray = user.asker(PATIENCE);
    astray.config = Some(user.dir.path().join("none.toml"));
    assert!(astray.contexts().is_empty());
}

#[test]
fn options_are_found_in_unfinished_lines() {
    let table = [
        ("shoal --context lab host show ", Some("lab")),
        ("shoal host show --context=lab h", Some("lab")),
        ("shoal host --context a --context b show ", Some("b")),
        ("shoal host --bogus show --context lab ", Some("lab")),
        ("shoal host show --context", None),
        ("shoal host show --context lab", None),
        ("shoal exec a/b -- --context lab ", None),
        ("shoal host show --contextual lab ", None),
        ("", None),
    ];
    for (line, expected) in table {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        assert_eq!(option_in(&words, "--context"), expected.map(OsString::from), "{line}");
    }
}

#[test]
fn home_is_expanded_as_a_shell_would() {
    let home = PathBuf::from("/home/ada");
    assert_eq!(at_home("~/c.toml".into(), Some(&home)), PathBuf::from("/home/ada/c.toml"));
    assert_eq!(at_home("c~/d".into(), Some(&home)), PathBuf::from("c~/d"));
    assert_eq!(at_home("~/c".into(), None), PathBuf::from("~/c"));
}
