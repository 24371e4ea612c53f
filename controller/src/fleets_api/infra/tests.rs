use shoal_core::host::{HostFacts, HostSpec};
use shoal_core::infra::{HostInfra, Phase};
use shoal_core::rollout::OnFailure;
use shoal_core::spec::{DataVolume, Owner};
use shoal_core::status::{HostStatus, State};
use shoal_proto::v1::store::{AgentProgramRecord, HostSpecRecord, ImageRecord};
use shoal_proto::v1::{
    ChangeKind, InfraMode, InstanceChange, PlanRequest, PlanResponse, PlannedInfra, RolloutState,
};

use super::*;
use crate::fleets_api::tests_support::{ADA, Lab, NOON, fleet, infra, infra_done, request};

const SQL: &[(&str, &str, &str)] = &[("sql", "app:1", "role=web")];

async fn planned(lab: &Lab, spec: &FleetSpec) -> Result<PlanResponse, Refusal> {
    lab.fleets().plan(PlanRequest { spec: Some(spec.clone().into()), recreate: None }).await
}

/// Applies, and rolls it out over hosts that are all there.
async fn rolled(lab: &Lab, spec: &FleetSpec) -> u64 {
    let applied = lab.fleets().apply(request(spec), ADA, NOON).await.unwrap();
    assert!(applied.changed);
    lab.roll(spec.fleet.as_str(), applied.revision).await;
    applied.revision
}

fn invalid<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    match result {
        Err(Refusal::Invalid(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn conflict<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    match result {
        Err(Refusal::Conflict(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Each change with its first field.
fn shown(changes: &[InstanceChange]) -> Vec<String> {
    let one = |c: &InstanceChange| {
        let kind = c.kind().as_str_name().replace("CHANGE_KIND_", "");
        let field = c.fields.first().filter(|_| c.kind() == ChangeKind::Replace).map(|f| {
            let side = |side: &Option<String>| side.clone().unwrap_or("none".into());
            format!(" ({}: {} -> {})", f.field, side(&f.from), side(&f.to))
        });
        format!("{kind} {}@{}{}", c.instance, c.host, field.unwrap_or_default())
    };
    changes.iter().map(one).collect()
}

/// What is said of a host, but for its notes and data.
fn way(planned: &PlannedInfra) -> String {
    let has = planned.has.as_deref().unwrap_or("none");
    let mode = planned.mode().as_str_name().replace("INFRA_MODE_", "");
    let (wants, all) = (&planned.wants, planned.recreated.join(" "));
    let snapshot = if planned.snapshot { " snapshot" } else { "" };
    format!("{}: {has} -> {wants} {mode} [{all}]{snapshot}", planned.host)
}

#[tokio::test]
async fn a_version_makes_everything_on_its_hosts_afresh() {
    let lab = Lab::new().await;
    rolled(&lab, &fleet("shop", &[("app", "app:1", "h1,h3"), ("db", "app:1", "h1")])).await;
    let plan = planned(&lab, &infra("1", SQL)).await.unwrap();
    let wanted = [
        "CREATE sql@h1",
        "REPLACE shop/app@h1 (infra: none -> 1)",
        "REPLACE shop/db@h1 (infra: none -> 1)",
        "CREATE sql@h2",
    ];
    assert_eq!(shown(&plan.changes), wanted);
    assert!(plan.changes_anything);
    let ways: Vec<String> = plan.infra.iter().map(way).collect();
    assert_eq!(
        ways,
        ["h1: none -> 1 NEW [infra/sql shop/app shop/db]", "h2: none -> 1 NEW [infra/sql]"]
    );
    rolled(&lab, &infra("1", SQL)).await;
    let told = lab.spec("h1").await.infra.unwrap();
    assert_eq!((told.version.as_str(), told.revision), ("1", 1));
    assert_eq!(lab.spec("h3").await.infra, None);
    let plan = planned(&lab, &infra("2", SQL)).await.unwrap();
    let ways: Vec<String> = plan.infra.iter().map(way).collect();
    assert_eq!(
        ways,
        [
            "h1: 1 -> 2 UPDATE [infra/sql shop/app shop/db] snapshot",
            "h2: 1 -> 2 UPDATE [infra/sql] snapshot"
        ]
    );
    assert_eq!(shown(&plan.changes)[0], "REPLACE sql@h1 (infra: 1 -> 2)");
    rolled(&lab, &infra("2", SQL)).await;
    let rollout = lab.rollout("infra", 2).await.record;
    assert!(rollout.hosts.values().all(|host| !host.kept), "its version changes each");
}

#[tokio::test]
async fn the_same_version_touches_nobody_but_new_hosts() {
    let lab = Lab::new().await;
    rolled(&lab, &infra("1", SQL)).await;
    let plan = planned(&lab, &infra("1", SQL)).await.unwrap();
    assert!(!plan.changes_anything && plan.notes.is_empty(), "{plan:?}");
    assert!(plan.infra.iter().all(|host| host.mode() == InfraMode::Same));
    assert!(plan.infra.iter().all(|host| host.recreated.is_empty()));
    // The tag moves, and the version stays what it is.
    lab.image("app:1", 3).await;
    lab.host("h4", "web").await;
    let plan = planned(&lab, &infra("1", SQL)).await.unwrap();
    assert_eq!(shown(&plan.changes), ["KEEP sql@h1", "KEEP sql@h2", "CREATE sql@h4"]);
    assert!(plan.notes[0].contains("app:1 was pushed anew"), "{:?}", plan.notes);
    let before = lab.spec("h1").await;
    assert_eq!(rolled(&lab, &infra("1", SQL)).await, 2);
    let image = |spec: &HostSpec| spec.instances[0].config.image.digest;
    assert_eq!(image(&lab.spec("h4").await), image(&before));
    let after = lab.spec("h1").await;
    assert_eq!((image(&after), &after.infra), (image(&before), &before.infra));
    let kept = lab.rollout("infra", 2).await.record.hosts;
    assert!(kept["id-h1"].kept && !kept["id-h4"].kept);
}

#[tokio::test]
async fn a_version_is_never_given_twice() {
    let lab = Lab::new().await;
    rolled(&lab, &infra("1", SQL)).await;
    rolled(&lab, &infra("2", &[("sql", "app:2", "role=web")])).await;
    let again = infra("1", &[("mail", "app:1", "h1"), ("sql", "app:2", "role=web")]);
    let wanted = "the infra file has version 1, as revision 1 has, but differs in instance.mail \
                  (new), instance.sql.image; give it a new version";
    assert_eq!(invalid(planned(&lab, &again).await), wanted);
    assert_eq!(invalid(lab.fleets().apply(request(&again), ADA, NOON).await), wanted);
    // Where its instances are is not what it is.
    let wider = infra("2", &[("sql", "app:2", "h1,h2,h3")]);
    let plan = planned(&lab, &wider).await.unwrap();
    assert_eq!(shown(&plan.changes), ["KEEP sql@h1", "KEEP sql@h2", "CREATE sql@h3"]);
    // One of before can come back as it was, if it is still there.
    assert!(planned(&lab, &infra("1", SQL)).await.unwrap().changes_anything);
    let digest = crate::fleets_api::tests_support::pinned("app:1", 1).digest.to_string();
    let stored = lab.records.get::<ImageRecord>(&digest).await.unwrap().unwrap();
    let mut batch = crate::store::Batch::new();
    batch.remove(&stored).unwrap();
    lab.records.commit(batch).await.unwrap();
    lab.image("app:1", 3).await;
    let text = invalid(planned(&lab, &infra("1", SQL)).await);
    assert!(text.contains("image app:1 (010101010101)"), "{text}");
}

#[tokio::test]
async fn only_the_infra_has_a_version() {
    let lab = Lab::new().await;
    let shop = FleetSpec { fleet: "shop".parse().unwrap(), ..infra("1", SQL) };
    let text = invalid(planned(&lab, &shop).await);
    assert!(text.starts_with("fleet shop has infra version 1, and only"), "{text}");
}

#[tokio::test]
async fn a_plan_says_what_getting_or_losing_a_version_means() {
    let lab = Lab::new().await;
    rolled(&lab, &fleet("infra", SQL)).await;
    let plan = planned(&lab, &infra("1", SQL)).await.unwrap();
    assert!(plan.notes[0].contains("was an ordinary fleet and gets version 1"), "{:?}", plan.notes);
    assert_eq!(shown(&plan.changes)[0], "REPLACE sql@h1 (infra: none -> 1)");
    rolled(&lab, &infra("1", SQL)).await;
    let plan = planned(&lab, &fleet("infra", SQL)).await.unwrap();
    assert!(plan.notes[0].contains("had version 1 and becomes"), "{:?}", plan.notes);
    assert_eq!(shown(&plan.changes), ["KEEP sql@h1", "KEEP sql@h2"]);
    assert!(plan.infra.is_empty() && plan.changes_anything);
    rolled(&lab, &fleet("infra", SQL)).await;
    assert_eq!(lab.spec("h1").await.infra, None);
}

#[tokio::test]
async fn a_plan_tells_of_each_host_what_there_is_to_know() {
    let lab = Lab::new().await;
    let mut one = infra("1", SQL);
    let owner = Owner::default();
    let settings = &mut one.instances.values_mut().next().unwrap().settings;
    let volume = DataVolume { path: "/var/lib/db".parse().unwrap(), owner };
    settings.data.insert("rows".parse().unwrap(), volume);
    rolled(&lab, &one).await;
    let shop = fleet("shop", &[("app", "app:1", "h1"), ("held", "app:1", "h1")]);
    rolled(&lab, &shop).await;
    let agent = lab.connect("h1");
    let mut spec = lab.spec("h1").await;
    spec.instances.iter_mut().filter(|i| i.id.instance.as_str() == "held").for_each(|i| {
        i.paused = true;
    });
    lab.put("id-h1", &HostSpecRecord { spec: Some(spec.clone().into()) }).await;
    agent.report(&spec, State::Failed);
    one.infra.as_mut().unwrap().version = "2".parse().unwrap();
    let plan = planned(&lab, &one).await.unwrap();
    let [first, second] = plan.infra.as_slice() else { panic!("{plan:?}") };
    assert_eq!(way(first), "h1: 1 -> 2 UPDATE [infra/sql shop/app] snapshot");
    let data: Vec<_> =
        first.data.iter().map(|d| format!("{} {:?}", d.machine, d.volumes)).collect();
    assert_eq!(data, ["infra-sql [\"rows\"]"]);
    let notes = [
        "shop/held is paused: nothing begins while it is up, for its data could not be copied",
        "infra/sql is not ready now (exited with 1); the version is not written down before it is",
        "shop/app is not ready now (exited with 1); the version is not written down before it is",
    ];
    assert_eq!(first.notes, notes);
    assert_eq!(second.notes, ["offline; what it has is as last known"]);
    assert!(!shown(&plan.changes).iter().any(|change| change.contains("shop/held")));
    // An agent of before infra versions says nothing of the one that it was told.
    let mut status = HostStatus::clone(&lab.live.status(&agent.id).unwrap());
    status.infra = None;
    lab.live.report(&agent.id, status);
    let plan = planned(&lab, &one).await.unwrap();
    assert_eq!(plan.infra[0].notes[0], "its agent knows no infra versions; upgrade it");
    let away = planned(&lab, &infra("3", &[("sql", "app:1", "h2")])).await.unwrap();
    assert_eq!(way(&away.infra[0]), "h1: none ->  SAME []");
    assert!(away.infra[0].notes[0].starts_with("leaves the infra"), "{away:?}");
}

#[tokio::test]
async fn an_infra_and_an_app_never_change_a_host_at_once() {
    let lab = Lab::new().await;
    lab.fleets().apply(request(&infra("1", SQL)), ADA, NOON).await.unwrap();
    let apply = async |name: &str, on: &str| {
        lab.fleets().apply(request(&fleet(name, &[("app", "app:1", on)])), ADA, NOON).await
    };
    let text = conflict(apply("shop", "h1,h3").await);
    let wanted =
        "fleet shop is locked: infra revision 1 is being rolled out on host h1 by ada since";
    assert!(text.starts_with(wanted), "{text}");
    assert!(apply("shop", "h3").await.unwrap().changed, "another host is free");
    lab.roll("infra", 1).await;
    lab.roll("shop", 1).await;
    assert!(apply("shop", "h1,h3").await.unwrap().changed);
    let text = conflict(lab.fleets().apply(request(&infra("2", SQL)), ADA, NOON).await);
    assert!(text.contains("revision 2 of fleet shop is being rolled out on host h1"), "{text}");
    // Ordinary fleets don't mind one another.
    assert!(apply("mail", "h1").await.unwrap().changed);
}

/// What a host is told to undo when it goes back.
async fn goes_back(data: bool) -> HostInfra {
    let lab = Lab::new().await;
    rolled(&lab, &infra("1", &[("sql", "app:1", "h1")])).await;
    let mut two = infra("2", &[("sql", "app:2", "h1")]);
    if !data {
        two.infra.as_mut().unwrap().going_back = shoal_core::infra::GoingBack::Image;
    }
    assert_eq!(two.rollout.on_failure, OnFailure::Rollback);
    lab.fleets().apply(request(&two), ADA, NOON).await.unwrap();
    let agent = lab.connect("h1");
    agent.catch_up(&lab).await;
    // It has the images ahead, and is told.
    while lab.spec("h1").await.infra.unwrap().version.as_str() == "1" {
        lab.advance("infra", 2, NOON).await;
        let spec = lab.spec("h1").await;
        if spec.infra.as_ref().unwrap().version.as_str() == "1" {
            agent.converge(&spec);
        }
    }
    agent.went_back(&lab.spec("h1").await);
    assert!(!lab.advance("infra", 2, NOON).await);
    let told = lab.spec("h1").await;
    let mut status = HostStatus { observed_generation: told.generation, ..HostStatus::default() };
    let on_the_way = infra_done(&told.infra.as_ref().unwrap().version);
    status.infra = Some(shoal_core::infra::Status { phase: Phase::Starting, ..on_the_way });
    lab.live.report(&agent.id, status);
    assert!(!lab.advance("infra", 2, NOON).await, "it is on its way back");
    agent.converge(&told);
    assert!(lab.advance("infra", 2, NOON).await);
    assert_eq!(lab.rollout("infra", 2).await.record.state(), RolloutState::RolledBack);
    told.infra.unwrap()
}

#[tokio::test]
async fn a_version_that_does_not_work_is_taken_back_with_its_data_where_its_file_says_so() {
    for (data, undo) in [(true, Some(2)), (false, None)] {
        let told = goes_back(data).await;
        assert_eq!((told.version.as_str(), told.revision, told.undo), ("1", 1, undo));
    }
}

#[tokio::test]
async fn the_agent_of_an_infra_must_be_there_for_each_of_its_hosts() {
    let lab = Lab::new().await;
    for host in ["h1", "h2"] {
        let architecture = "x86-64".into();
        let facts = HostFacts { architecture, idmapped_squashfs: true, ..HostFacts::default() };
        lab.facts(host, Some(facts)).await;
    }
    let mut wanted = infra("1", SQL);
    wanted.infra.as_mut().unwrap().agent = Some("0.3.0".parse().unwrap());
    let refused = invalid(lab.fleets().apply(request(&wanted), ADA, NOON).await);
    for part in ["host h1 is x86-64", "there is no agent 0.3.0", "shoal agent push FILE"] {
        assert!(refused.contains(part), "{refused}");
    }
    let program = AgentProgramRecord { digest: vec![7; 32].into(), size: 9, ..Default::default() };
    lab.put("0.3.0/x86-64", &program).await;
    rolled(&lab, &wanted).await;
    let agent = lab.spec("h1").await.agent.unwrap();
    assert_eq!((agent.version.as_str(), agent.size, agent.asked), ("0.3.0", 9, 1));
    // A version is one thing: it does not come with another agent later.
    wanted.infra.as_mut().unwrap().agent = Some("0.4.0".parse().unwrap());
    let refused = invalid(planned(&lab, &wanted).await);
    assert!(refused.contains("but differs in agent; give it a new version"), "{refused}");
}

#[tokio::test]
async fn an_infra_without_instances_is_taken_away() {
    let lab = Lab::new().await;
    rolled(&lab, &infra("1", SQL)).await;
    let none = infra("1", &[]);
    let plan = planned(&lab, &none).await.unwrap();
    assert_eq!(shown(&plan.changes), ["REMOVE sql@h1", "REMOVE sql@h2"]);
    rolled(&lab, &none).await;
    let spec = lab.spec("h1").await;
    assert!(spec.infra.is_none() && spec.instances.is_empty(), "{spec:?}");
}
