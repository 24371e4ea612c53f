//! Whole commands, from the command line to the exit code, against a controller in memory.

use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use shoal_proto::v1::fleets_server::{Fleets, FleetsServer};
use shoal_proto::v1::rollouts_server::{Rollouts, RolloutsServer};
use shoal_proto::v1::{
    ApplyRequest, ApplyResponse, ControlRolloutRequest, ControlRolloutResponse, Fleet,
    GetFleetStatusRequest, GetFleetStatusResponse, ListFleetsRequest, ListFleetsResponse,
    ListRolloutsRequest, ListRolloutsResponse, Lock, LockRequest, LockResponse, OfflineHosts,
    OutcomeKind, PlanRequest, PlanResponse, Rollout, RolloutCommand, RolloutState, UndoRequest,
    UndoResponse, UnlockRequest, UnlockResponse, WatchRolloutRequest,
};
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::testing::Site;
use crate::view::samples;

const FLEET: &str =
    "fleet = \"shop\"\n[instance.main]\nimage = \"shop:1\"\nhosts = \"*\"\nboot = true\n";

/// One fleet at revision 2, of which the file makes revision 3.
#[derive(Debug, Clone)]
struct Fake(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    revision: u64,
    /// Someone else applies between every plan and apply.
    contended: bool,
    applied: Vec<ApplyRequest>,
    /// So many further applies find the fleet locked; whoever held it has applied by then.
    locked: u32,
    /// What operators said, in words.
    said: Vec<String>,
    end: RolloutState,
    observed: u64,
}

#[tonic::async_trait]
impl Fleets for Fake {
    async fn plan(&self, _: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        let mut inner = self.0.lock().unwrap();
        let changes_anything = inner.revision < 3;
        let plan = PlanResponse {
            base_revision: inner.revision,
            changes: if changes_anything { samples::plan().changes } else { vec![] },
            changes_anything,
            retries: false,
            notes: vec![],
            infra: vec![],
        };
        inner.revision += u64::from(inner.contended);
        Ok(Response::new(plan))
    }

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let mut inner = self.0.lock().unwrap();
        let request = request.into_inner();
        if inner.locked > 0 {
            inner.locked -= 1;
            inner.revision += u64::from(inner.locked == 0);
            return Err(Status::aborted("fleet shop is locked: user/bob migrates it; wait"));
        }
        if request.base_revision != Some(inner.revision) {
            return Err(Status::aborted("fleet shop is at another revision by now; plan again"));
        }
        inner.applied.push(request);
        let changed = inner.revision < 3;
        inner.revision = 3;
        Ok(Response::new(ApplyResponse { revision: 3, changed, changes: vec![], notes: vec![] }))
    }

    async fn list(
        &self,
        _: Request<ListFleetsRequest>,
    ) -> Result<Response<ListFleetsResponse>, Status> {
        let fleets = vec![Fleet { name: "shop".into(), ..Default::default() }];
        Ok(Response::new(ListFleetsResponse { fleets }))
    }

    async fn get_status(
        &self,
        request: Request<GetFleetStatusRequest>,
    ) -> Result<Response<GetFleetStatusResponse>, Status> {
        use shoal_proto::v1::{InstanceHealth, InstanceState};
        let name = request.into_inner().fleet;
        if name != "shop" {
            return Err(Status::not_found(format!("there is no fleet {name}")));
        }
        let revision = self.0.lock().unwrap().observed;
        let observed = samples::observed(revision, InstanceState::Running, InstanceHealth::Healthy);
        let rollout = Some(samples::second_batch(RolloutState::Changing));
        let fleet = Some(Fleet { name, revision: 3, rollout, ..Default::default() });
        let instances = vec![samples::instance("h1", Some(observed))];
        Ok(Response::new(GetFleetStatusResponse { fleet, instances }))
    }
}

#[tonic::async_trait]
impl Rollouts for Fake {
    type WatchStream = tokio_stream::Iter<std::vec::IntoIter<Result<Rollout, Status>>>;

    async fn list(
        &self,
        _: Request<ListRolloutsRequest>,
    ) -> Result<Response<ListRolloutsResponse>, Status> {
        Ok(Response::new(ListRolloutsResponse { rollouts: vec![] }))
    }

    async fn watch(
        &self,
        _: Request<WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let rollout =
            samples::rollout(self.0.lock().unwrap().end, &[("h1", OutcomeKind::Ready, "")]);
        Ok(Response::new(tokio_stream::iter(vec![Ok(rollout)])))
    }

    async fn control(
        &self,
        request: Request<ControlRolloutRequest>,
    ) -> Result<Response<ControlRolloutResponse>, Status> {
        let request = request.into_inner();
        let (verb, ms) = (request.command().as_str_name(), request.hold_ms);
        if request.command() == RolloutCommand::Promote {
            return Err(Status::failed_precondition("the rollout waits for no `promote`"));
        }
        let said = format!("{verb} {} {:?} {ms}", request.fleet, request.reason);
        self.0.lock().unwrap().said.push(said);
        let rollout = Some(samples::second_batch(RolloutState::Changing));
        Ok(Response::new(ControlRolloutResponse { rollout }))
    }

    async fn undo(&self, request: Request<UndoRequest>) -> Result<Response<UndoResponse>, Status> {
        let UndoRequest { fleet, to_revision, timeout_ms, source, data: _ } = request.into_inner();
        let mut inner = self.0.lock().unwrap();
        inner.said.push(format!("undo {fleet} {to_revision} {timeout_ms} {source:?}"));
        let in_place = inner.end == RolloutState::RolledBack;
        Ok(Response::new(UndoResponse { revision: 3, to_revision: 2, in_place }))
    }

    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let LockRequest { fleet, reason, for_ms } = request.into_inner();
        let mut inner = self.0.lock().unwrap();
        if inner.locked > 0 {
            return Err(Status::aborted("fleet shop is locked: user/bob migrates it; wait"));
        }
        inner.said.push(format!("lock {fleet} {reason:?} {for_ms}"));
        Ok(Response::new(LockResponse { lock: Some(Lock { reason, ..Default::default() }) }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let UnlockRequest { fleet, force } = request.into_inner();
        if !force {
            return Err(Status::permission_denied("the lock is user/bob's; say --force"));
        }
        self.0.lock().unwrap().said.push(format!("unlock {fleet}"));
        Ok(Response::new(UnlockResponse { was_locked: true }))
    }
}

/// A fake controller, a context for it, and a fleet file.
struct World {
    fake: Fake,
    dir: tempfile::TempDir,
}

async fn world() -> World {
    let fake = Fake(Arc::new(Mutex::new(Inner {
        revision: 2,
        contended: false,
        applied: vec![],
        locked: 0,
        said: vec![],
        end: RolloutState::Completed,
        observed: 3,
    })));
    let router = Server::builder()
        .add_service(FleetsServer::new(fake.clone()))
        .add_service(RolloutsServer::new(fake.clone()));
    let site = Site::new();
    let context = site.context(&site.serve(router).await);
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "current = \"test\"\n[context.test]\ncontroller = {:?}\nca = {:?}\n\
         certificate = {:?}\nkey = {:?}\n",
        context.controller, context.ca, context.certificate, context.key
    );
    shoal_tls::write_private(&dir.path().join("config.toml"), config.as_bytes()).unwrap();
    std::fs::write(dir.path().join("fleet.toml"), FLEET).unwrap();
    World { fake, dir }
}

impl World {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Carries out a command line in which `FILE` is the fleet file. Its exit code and error.
    async fn run(&self, line: &str) -> (u8, String) {
        let (config, file) = (self.path("config.toml"), self.path("fleet.toml"));
        let words = line.split(' ').map(|word| if word == "FILE" { file.as_str() } else { word });
        let line = ["shoal", "--config", &config].into_iter().chain(words);
        match run(Cli::try_parse_from(line).unwrap()).await {
            Ok(exit) => (exit.code(), String::new()),
            Err(failure) => (failure.exit().code(), failure.report().unwrap_or_default()),
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.fake.0.lock().unwrap()
    }
}

#[tokio::test]
async fn plan_says_by_its_exit_code_whether_anything_would_change() {
    let world = world().await;
    assert_eq!(world.run("plan FILE").await.0, 1);
    assert_eq!(world.run("plan FILE -o json").await.0, 1);
    world.inner().revision = 3;
    assert_eq!(world.run("plan FILE").await.0, 0);
}

#[tokio::test]
async fn a_file_with_errors_is_never_sent() {
    let world = world().await;
    std::fs::write(Path::new(&world.path("fleet.toml")), "fleet = \"Shop\"\n").unwrap();
    for line in ["check FILE", "plan FILE", "apply FILE"] {
        let (code, error) = world.run(line).await;
        assert_eq!(code, 2, "{line}: {error}");
        assert!(error.contains("fleet.toml:1:"), "{line}: {error}");
    }
    assert!(world.inner().applied.is_empty());
}

#[tokio::test]
async fn apply_sends_what_was_planned() {
    let world = world().await;
    assert_eq!(
        world.run("apply FILE --wait --timeout 5m --source abc123").await,
        (0, String::new())
    );
    let applied = world.inner().applied.pop().unwrap();
    assert_eq!(applied.base_revision, Some(2));
    assert_eq!((applied.timeout_ms, applied.source.as_str()), (300_000, "abc123"));
    assert_eq!(applied.spec.clone().unwrap().fleet, "shop");
    assert_eq!((applied.offline(), applied.replace), (OfflineHosts::Wait, false));
    assert_eq!(world.run("apply FILE --skip-offline --replace").await.0, 0);
    let applied = world.inner().applied.pop().unwrap();
    assert_eq!((applied.offline(), applied.replace), (OfflineHosts::Skip, true));
}

#[tokio::test]
async fn a_lock_has_a_code_of_its_own_and_is_waited_for_where_asked() {
    let world = world().await;
    world.inner().locked = 1;
    let (code, error) = world.run("apply FILE").await;
    assert_eq!(code, 13, "{error}");
    assert!(error.contains("fleet shop is locked: user/bob"), "{error}");
    assert!(world.inner().applied.is_empty());
    world.inner().locked = 9;
    assert_eq!(world.run("apply FILE --lock-wait 100ms").await.0, 13);
    assert_eq!(world.run("rollout lock shop --reason x").await.0, 13);
    // Who held it has made a revision, on which the next plan is based.
    (world.inner().locked, world.inner().revision) = (1, 1);
    assert_eq!(world.run("apply FILE --lock-wait 1m --wait").await, (0, String::new()));
    let applied = world.inner().applied.pop().unwrap();
    assert_eq!(applied.base_revision, Some(2));
}

#[tokio::test]
async fn operators_say_what_they_want_and_why() {
    let world = world().await;
    let table = [
        (
            "rollout pause shop --reason graphs --for 2h",
            "ROLLOUT_COMMAND_PAUSE shop \"graphs\" 7200000",
        ),
        ("rollout pause shop", "ROLLOUT_COMMAND_PAUSE shop \"\" 86400000"),
        ("rollout resume shop --wait", "ROLLOUT_COMMAND_RESUME shop \"\" 0"),
        ("rollout resume shop -o json", "ROLLOUT_COMMAND_RESUME shop \"\" 0"),
        ("rollout abort shop --reason bad", "ROLLOUT_COMMAND_ABORT shop \"bad\" 0"),
        ("rollout undo shop", "undo shop 0 600000 \"\""),
        ("rollout undo shop --to-revision 1 --wait --timeout 1m", "undo shop 1 60000 \"\""),
        ("rollout lock shop --reason migration", "lock shop \"migration\" 3600000"),
        ("rollout unlock shop --force -o json", "unlock shop"),
    ];
    for (line, expected) in table {
        assert_eq!(world.run(line).await, (0, String::new()), "{line}");
        assert_eq!(world.inner().said.pop().as_deref(), Some(expected), "{line}");
    }
    for line in ["rollout list shop", "rollout show shop", "rollout show shop --revision 3 -o json"]
    {
        assert_eq!(world.run(line).await, (0, String::new()), "{line}");
    }
    let (code, error) = world.run("rollout promote shop").await;
    assert_eq!(code, 11, "{error}");
    let (code, error) = world.run("rollout unlock shop").await;
    assert_eq!(code, 9, "{error}");
    assert!(error.contains("user/bob") && error.contains("--force"), "{error}");
}

#[tokio::test]
async fn an_undo_ends_as_what_it_began_does() {
    let ends = [
        (RolloutState::RolledBack, 0),
        (RolloutState::Completed, 0),
        (RolloutState::Partial, 5),
        (RolloutState::Failed, 3),
    ];
    for (end, expected) in ends {
        let world = world().await;
        world.inner().end = end;
        let (code, error) = world.run("rollout undo shop --wait -o json").await;
        assert_eq!(code, expected, "{end:?}: {error}");
    }
}

#[tokio::test]
async fn a_dry_run_applies_nothing() {
    let world = world().await;
    assert_eq!(world.run("apply FILE --dry-run").await.0, 0);
    assert!(world.inner().applied.is_empty());
}

const INFRA: &str = "infra = \"2\"\nhosts = \"*\"\n[instance.db]\nimage = \"db:1\"\nboot = true\n";

#[tokio::test]
async fn an_infra_file_is_planned_and_applied_by_commands_of_its_own() {
    let world = world().await;
    std::fs::write(Path::new(&world.path("fleet.toml")), INFRA).unwrap();
    assert_eq!(world.run("infra plan FILE").await, (1, String::new()));
    assert_eq!(world.run("check FILE").await, (0, String::new()));
    assert_eq!(world.run("infra apply FILE --dry-run -o json").await.0, 0);
    assert!(world.inner().applied.is_empty());
    assert_eq!(world.run("infra apply FILE --wait --skip-offline").await, (0, String::new()));
    let applied = world.inner().applied.pop().unwrap();
    let spec = applied.spec.clone().unwrap();
    assert_eq!((spec.fleet.as_str(), spec.infra.unwrap().version.as_str()), ("infra", "2"));
    assert_eq!((applied.offline(), applied.base_revision), (OfflineHosts::Skip, Some(2)));
}

#[tokio::test]
async fn one_kind_of_file_is_not_taken_for_the_other() {
    let world = world().await;
    for verb in ["plan", "apply"] {
        let (code, error) = world.run(&format!("infra {verb} FILE")).await;
        assert_eq!(code, 2, "{error}");
        let hint = format!("`shoal {verb} {}`", world.path("fleet.toml"));
        assert!(error.contains("is a fleet file") && error.contains(&hint), "{error}");
    }
    std::fs::write(Path::new(&world.path("fleet.toml")), INFRA).unwrap();
    for verb in ["plan", "apply"] {
        let (code, error) = world.run(&format!("{verb} FILE")).await;
        assert_eq!(code, 2, "{error}");
        let hint = format!("`shoal infra {verb} {}`", world.path("fleet.toml"));
        assert!(error.contains("is an infra file") && error.contains(&hint), "{error}");
    }
    let (code, error) = world.run("infra apply none.toml").await;
    assert_eq!(code, 2);
    assert!(error.contains("no infra file none.toml") && error.contains("infra.toml"), "{error}");
    assert!(world.inner().applied.is_empty());
}

#[tokio::test]
async fn a_race_is_refused() {
    let world = world().await;
    world.inner().contended = true;
    let (code, error) = world.run("apply FILE").await;
    assert_eq!(code, 7, "{error}");
    assert!(error.contains("cannot apply fleet shop") && error.contains("plan again"), "{error}");
    assert!(world.inner().applied.is_empty());
}

#[tokio::test]
async fn waiting_ends_as_the_rollout_does() {
    let ends = [
        (RolloutState::Failed, 3),
        (RolloutState::RolledBack, 4),
        (RolloutState::Partial, 5),
        (RolloutState::TimedOut, 6),
        (RolloutState::Superseded, 7),
        (RolloutState::Aborted, 14),
    ];
    for (end, expected) in ends {
        let world = world().await;
        world.inner().end = end;
        assert_eq!(world.run("apply FILE --wait").await.0, expected, "{end:?}");
        assert_eq!(world.run("rollout watch shop -o json").await.0, expected, "{end:?}");
    }
}

#[tokio::test]
async fn an_old_failure_that_mended_itself_is_no_failure() {
    let world = world().await;
    world.inner().revision = 3;
    world.inner().end = RolloutState::Partial;
    assert_eq!(world.run("apply FILE --wait").await.0, 0);
    world.inner().observed = 2;
    assert_eq!(world.run("apply FILE --wait").await.0, 5);
}

#[tokio::test]
async fn status_says_by_its_exit_code_whether_all_is_well() {
    let world = world().await;
    assert_eq!(world.run("status").await.0, 0);
    assert_eq!(world.run("status shop -o json").await.0, 0);
    world.inner().observed = 2;
    assert_eq!(world.run("status").await.0, 1);
    assert_eq!(world.run("status shop").await.0, 1);
    let (code, error) = world.run("status shpo").await;
    assert_eq!(
        (code, error.as_str()),
        (10, "error: cannot show fleet shpo: there is no fleet shpo")
    );
}

#[tokio::test]
async fn a_service_that_is_not_there_is_explained() {
    let (code, error) = world().await.run("image list").await;
    assert_eq!(code, 70, "{error}");
    assert!(error.contains("shoal version"), "{error}");
    let (code, error) = world().await.run("exec shop/main --no-stdin -- true").await;
    assert_eq!(code, 125, "{error}");
}

#[tokio::test]
async fn contexts_can_be_listed_and_renamed() {
    let world = world().await;
    for line in ["context list", "context show -o json", "context rename test prod"] {
        assert_eq!(world.run(line).await, (0, String::new()), "{line}");
    }
    assert_eq!(world.run("context use test").await.0, 2);
    assert_eq!(world.run("context use prod").await.0, 0);
    assert_eq!(world.run("--context test status").await.0, 2);
    assert_eq!(world.run("status").await.0, 0);
}
