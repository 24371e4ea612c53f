use shoal_core::fleet::FleetSpec;
use shoal_core::host::{HostFacts, HostSpec};
use shoal_core::rollout::State;
use shoal_core::spec::{DataVolume, File, FileBody, Memory, Owner, Value};
use shoal_core::status::State as InstanceState;
use shoal_proto::v1::store::{
    AuditRecord, HostSpecRecord, RevisionRecord, SecretHeadRecord, SecretRecord, TagRecord,
};
use shoal_proto::v1::{self, InstanceChange, RolloutState};

use super::apply::{Applied, apply_to};
use super::tests_support::{ADA, Lab, NOON, fleet, request};
use super::world::World;
use super::*;
use crate::records::revision_id;

const WEB: &[(&str, &str, &str)] = &[("main", "app:1", "role=web")];

async fn planned(lab: &Lab, instances: &[(&str, &str, &str)]) -> Result<PlanResponse, Refusal> {
    let spec = Some(fleet("shop", instances).into());
    lab.fleets().plan(PlanRequest { spec, recreate: None }).await
}

fn shown(changes: &[InstanceChange]) -> Vec<String> {
    let kind = |change: &InstanceChange| change.kind().as_str_name().replace("CHANGE_KIND_", "");
    changes.iter().map(|c| format!("{} {}@{}", kind(c), c.instance, c.host)).collect()
}

fn invalid(result: Result<PlanResponse, Refusal>) -> String {
    match result {
        Err(Refusal::Invalid(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Applies, and rolls it out.
async fn rolled(lab: &Lab, instances: &[(&str, &str, &str)]) -> u64 {
    let applied = lab.apply("shop", instances).await.unwrap();
    lab.roll("shop", applied.revision).await;
    applied.revision
}

#[tokio::test]
async fn a_new_fleet_is_created_on_every_match() {
    let lab = Lab::new().await;
    let _agent = lab.connect("h2");
    let plan = planned(&lab, WEB).await.unwrap();
    assert_eq!((plan.base_revision, plan.changes_anything), (0, true));
    assert_eq!(shown(&plan.changes), ["CREATE main@h1", "CREATE main@h2"]);
    let online: Vec<bool> = plan.changes.iter().map(|change| change.host_online).collect();
    assert_eq!(online, [false, true]);
    assert!(lab.records.list::<FleetRecord>().await.unwrap().records.is_empty());
}

#[tokio::test]
async fn what_is_signed_anew_gets_to_the_hosts_and_restarts_nothing() {
    let lab = Lab::new().await;
    rolled(&lab, WEB).await;
    let tag = TagRecord {
        digest: vec![1; 32].into(),
        signed: Some(v1::SignedManifest { manifest: "m".into(), signature: "s".into() }),
    };
    lab.put("app/1", &tag).await;
    let plan = planned(&lab, WEB).await.unwrap();
    assert!(plan.changes_anything);
    assert_eq!(shown(&plan.changes), ["REFRESH main@h1", "REFRESH main@h2"]);
    assert_eq!(plan.changes[0].fields[0].field, "signature");
    rolled(&lab, WEB).await;
    let signed = |spec: &HostSpec| spec.instances[0].config.image.signed.clone();
    let there = signed(&lab.spec("h2").await).unwrap();
    assert_eq!((there.manifest(), there.signature()), ("m", "s"));
    assert!(!planned(&lab, WEB).await.unwrap().changes_anything);
    // What goes back has what was signed then.
    let revision =
        lab.records.get::<RevisionRecord>(&revision_id("shop", 2)).await.unwrap().unwrap().record;
    let image = revision.hosts["id-h1"].instances["main"].image.clone().unwrap();
    assert_eq!(image.signed, tag.signed);
}

#[tokio::test]
async fn a_plan_tells_create_replace_keep_and_remove_apart() {
    let lab = Lab::new().await;
    let before = [("gone", "app:1", "h1"), ("keep", "app:1", "*"), ("new", "app:1", "h1,h3")];
    rolled(&lab, &before).await;
    let after = [("fresh", "app:1", "h3"), ("keep", "app:1", "h1,h3"), ("new", "app:2", "h1")];
    let plan = planned(&lab, &after).await.unwrap();
    assert_eq!((plan.base_revision, plan.changes_anything), (1, true));
    let wanted = [
        "REMOVE gone@h1",
        "KEEP keep@h1",
        "REPLACE new@h1",
        "REMOVE keep@h2",
        "CREATE fresh@h3",
        "KEEP keep@h3",
        "REMOVE new@h3",
    ];
    assert_eq!(shown(&plan.changes), wanted);
    let replaced = plan.changes.iter().find(|change| change.kind() == ChangeKind::Replace);
    let fields: Vec<_> = replaced.unwrap().fields.iter().map(|f| f.field.as_str()).collect();
    assert_eq!(fields, ["image"]);
}

#[tokio::test]
async fn every_problem_is_told_at_once() {
    let lab = Lab::new().await;
    let bad = [("a", "app:9", "role=mail"), ("b", "other:1", "h1"), ("c", "app:1", "h9")];
    let text = invalid(planned(&lab, &bad).await);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for (line, wanted) in lines.iter().zip([
        "instance a: no host matches \"role=mail\"",
        "instance a: image app:9 is not known",
        "instance b: image other:1 is not known",
        "instance c: host h9 is not enrolled",
    ]) {
        assert!(line.starts_with(wanted), "{line}");
    }
    assert!(matches!(lab.apply("shop", &bad).await, Err(Refusal::Invalid(_))));
    assert!(lab.records.list::<AuditRecord>().await.unwrap().records.is_empty());
}

#[tokio::test]
async fn many_problems_fit_an_answer() {
    let lab = Lab::new().await;
    let names: Vec<String> = (0..200).map(|n| format!("i{n}")).collect();
    let bad: Vec<_> = names.iter().map(|n| (n.as_str(), "nothing:1", "h1")).collect();
    let text = invalid(planned(&lab, &bad).await);
    assert!(text.len() < 6000 && text.ends_with(" more"), "{text}");
}

#[tokio::test]
async fn templates_are_rendered_for_the_hosts_where_they_will_be() {
    let lab = Lab::new().await;
    let mut spec = fleet("shop", WEB);
    let settings = &mut spec.instances.values_mut().next().unwrap().settings;
    let text = "{% if shoal.host == 'h2' %}\n{{ table.missing }}{% endif %}";
    let body = FileBody::Template(text.into());
    let file = File { body, mode: 0o644, owner: Owner::default(), reload: None };
    settings.files.insert("/etc/app.conf".parse().unwrap(), file);
    settings.vars.insert("table".into(), Value::Table([].into()));
    let request = PlanRequest { spec: Some(spec.into()), recreate: None };
    let text = invalid(lab.fleets().plan(request).await);
    assert!(
        text.starts_with("instance main on host h2: template of file /etc/app.conf line 2: "),
        "{text}"
    );
}

#[tokio::test]
async fn what_the_store_could_not_hold_is_refused_before() {
    let lab = Lab::new().await;
    let mut spec = fleet("shop", WEB);
    let settings = &mut spec.instances.values_mut().next().unwrap().settings;
    for path in ["/etc/a", "/etc/b", "/etc/c"] {
        let body = FileBody::Text("x".repeat(500 << 10));
        let file = File { body, mode: 0o644, owner: Owner::default(), reload: None };
        settings.files.insert(path.parse().unwrap(), file);
    }
    let text =
        invalid(lab.fleets().plan(PlanRequest { spec: Some(spec.into()), recreate: None }).await);
    assert!(text.contains("the fleet comes to"), "{text}");
    assert!(text.contains("everything on host h1 comes to"), "{text}");
}

#[tokio::test]
async fn an_apply_makes_a_revision_a_rollout_and_an_entry() {
    let lab = Lab::new().await;
    let mut wanted = request(&fleet("shop", WEB));
    wanted.source = "commit abc".into();
    wanted.timeout_ms = 5000;
    let applied = lab.fleets().apply(wanted, ADA, NOON).await.unwrap();
    assert_eq!((applied.revision, applied.changed, applied.changes.len()), (1, true, 2));
    let stored = inventory::revision(&lab.records, "shop", 1).await.unwrap();
    assert_eq!((stored.author.as_str(), stored.source.as_str()), (ADA, "commit abc"));
    assert_eq!(stored.hosts.len(), 2);
    let rollout = lab.rollout("shop", 1).await.record;
    assert_eq!(rollout.state(), RolloutState::Planned);
    assert_eq!(rollout.deadline_ms, NOON.0 + 5000);
    let audit = lab.records.list::<AuditRecord>().await.unwrap().records;
    let entry = &audit[0].record;
    let said = [&entry.who, &entry.what, &entry.target, &entry.detail].map(String::as_str);
    assert_eq!(said, [ADA, "Fleets/Apply", "shop", "revision 1"]);
    // Hosts are the driver's.
    assert!(lab.records.list::<HostSpecRecord>().await.unwrap().records.is_empty());
}

#[tokio::test]
async fn the_same_again_makes_nothing() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    for round in ["while it rolls out", "when it has"] {
        let again = lab.apply("shop", WEB).await.unwrap();
        assert_eq!((again.revision, again.changed), (1, false), "{round}");
        if round == "while it rolls out" {
            lab.roll("shop", 1).await;
        }
    }
    let plan = planned(&lab, WEB).await.unwrap();
    assert_eq!((plan.changes_anything, plan.retries), (false, false));
    assert_eq!(shown(&plan.changes), ["KEEP main@h1", "KEEP main@h2"]);
    assert_eq!(lab.records.list::<RevisionRecord>().await.unwrap().records.len(), 1);
    assert_eq!(lab.records.list::<AuditRecord>().await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_moved_tag_and_another_label_are_changes() {
    let lab = Lab::new().await;
    rolled(&lab, WEB).await;
    lab.host("h3", "web").await;
    let plan = planned(&lab, WEB).await.unwrap();
    assert_eq!(shown(&plan.changes), ["KEEP main@h1", "KEEP main@h2", "CREATE main@h3"]);
    lab.host("h3", "db").await;
    lab.image("app:1", 3).await;
    let plan = planned(&lab, WEB).await.unwrap();
    assert_eq!(shown(&plan.changes), ["REPLACE main@h1", "REPLACE main@h2"]);
    assert_eq!(lab.apply("shop", WEB).await.unwrap().revision, 2);
}

#[tokio::test]
async fn the_same_spec_after_a_failure_is_another_try_that_disturbs_nothing() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    let (one, two) = (lab.connect("h1"), lab.connect("h2"));
    // The canary works, the other one does not.
    while lab.spec("h2").await.instances.is_empty() {
        one.catch_up(&lab).await;
        two.catch_up(&lab).await;
        assert!(!lab.advance("shop", 1, NOON).await);
    }
    two.report(&lab.spec("h2").await, InstanceState::Failed);
    assert!(!lab.advance("shop", 1, Timestamp(NOON.0 + 60_000)).await, "a failure must last");
    assert!(lab.advance("shop", 1, Timestamp(NOON.0 + 75_000)).await);
    assert_eq!(lab.rollout("shop", 1).await.record.state(), RolloutState::Failed);
    let plan = planned(&lab, WEB).await.unwrap();
    assert_eq!((plan.changes_anything, plan.retries), (false, true));
    let again = lab.apply("shop", WEB).await.unwrap();
    assert_eq!((again.revision, again.changed), (2, true));
    assert_eq!(shown(&again.changes), ["KEEP main@h1", "KEEP main@h2"]);
    assert_eq!(lab.rollout("shop", 1).await.record.state(), RolloutState::Failed);
}

#[tokio::test]
async fn a_host_whose_agent_went_back_is_changed_by_whatever_comes_next() {
    let lab = Lab::new().await;
    rolled(&lab, WEB).await;
    let (one, two) = (lab.connect("h1"), lab.connect("h2"));
    one.catch_up(&lab).await;
    two.went_back(&lab.spec("h2").await);
    lab.live.flush().await.unwrap();
    let more = [WEB, &[("more", "app:1", "h3")]].concat();
    let plan = planned(&lab, &more).await.unwrap();
    assert_eq!(plan.notes.len(), 1);
    assert!(plan.notes[0].starts_with("h2 went back") && plan.notes[0].contains("exited with 1"));
    let applied = lab.apply("shop", &more).await.unwrap();
    assert_eq!(shown(&applied.changes), ["KEEP main@h1", "KEEP main@h2", "CREATE more@h3"]);
    let record = lab.rollout("shop", applied.revision).await.record;
    let kept = ["id-h1", "id-h2", "id-h3"].map(|host| record.hosts[host].kept);
    assert_eq!(kept, [true, false, false]);
}

#[tokio::test]
async fn a_newer_revision_supersedes_the_rollout_before() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    let later = Timestamp(NOON.0 + 1);
    let wanted = request(&fleet("shop", &[("main", "app:2", "h3")]));
    lab.fleets().apply(wanted, ADA, later).await.unwrap();
    let before = lab.rollout("shop", 1).await.record;
    assert_eq!(before.state(), RolloutState::Superseded);
    assert_eq!(before.ended_ms, Some(later.0));
    let newest = World::load(&lab.records, &fleet("shop", WEB)).await.unwrap().newest.unwrap();
    assert_eq!((newest.revision.number, newest.rollout.state), (2, State::Planned));
}

#[tokio::test]
async fn hosts_that_were_told_by_a_superseded_rollout_are_cleared() {
    let lab = Lab::new().await;
    rolled(&lab, WEB).await;
    let applied = lab.apply("shop", &[("main", "app:1", "h3")]).await.unwrap();
    assert_eq!(shown(&applied.changes), ["REMOVE main@h1", "REMOVE main@h2", "CREATE main@h3"]);
    lab.roll("shop", 2).await;
    assert!(lab.spec("h1").await.instances.is_empty());
    assert_eq!(lab.spec("h3").await.instances.len(), 1);
}

#[tokio::test]
async fn of_two_appliers_on_one_base_exactly_one_wins() {
    let lab = Lab::new().await;
    rolled(&lab, WEB).await;
    let fleets = std::sync::Arc::new(lab.fleets());
    let apply = |image: &'static str| {
        let mut wanted = request(&fleet("shop", &[("main", image, "role=web")]));
        wanted.base_revision = Some(1);
        let fleets = fleets.clone();
        tokio::spawn(async move { fleets.apply(wanted, ADA, NOON).await })
    };
    let (one, two) = (apply("app:2"), apply("app:3"));
    let (mut won, mut lost) = (0, String::new());
    for result in [one.await.unwrap(), two.await.unwrap()] {
        match result {
            Ok(applied) => won = applied.revision,
            Err(Refusal::Conflict(text)) => lost = text,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(won, 2);
    let wanted = "fleet shop has moved on since revision 1: revision 2 was applied by \
         spiffe://test/user/ada at 2023-11-14 22:13:20 UTC; run `shoal plan` again";
    assert!(lost.starts_with(wanted), "{lost}");
    let (_, differs) = lost.split_once("\nWhat differs from revision 1:\n").unwrap();
    assert!(differs.starts_with("  main: image: app:1 -> app:"), "{differs}");
    assert_eq!(lab.records.list::<RevisionRecord>().await.unwrap().records.len(), 2);
}

/// The store decides also where no lock of this process helps.
#[tokio::test]
async fn a_world_that_has_changed_since_is_not_applied_to() {
    let lab = Lab::new().await;
    let wanted = |image: &str| {
        let spec = fleet("shop", &[("main", image, "role=web")]);
        Wanted::try_from(request(&spec)).unwrap()
    };
    let (one, two) = (wanted("app:1"), wanted("app:2"));
    let stale = World::load(&lab.records, &one.spec).await.unwrap();
    let apply = |wanted: Wanted, world: World| {
        let records = lab.records.clone();
        async move { apply_to(&records, world, &wanted, ADA, NOON).await.unwrap() }
    };
    let won = apply(two.clone(), World::load(&lab.records, &two.spec).await.unwrap()).await;
    assert!(matches!(won, Some(Applied { revision: 1, changed: true, .. })), "{won:?}");
    assert_eq!(apply(one, stale).await, None);
}

/// The driver has told a host meanwhile, which the plan does not know of.
#[tokio::test]
async fn a_rollout_that_has_moved_since_makes_the_apply_read_again() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    let wanted = Wanted::try_from(request(&fleet("shop", &[("main", "app:1", "h3")]))).unwrap();
    let stale = World::load(&lab.records, &wanted.spec).await.unwrap();
    lab.advance("shop", 1, NOON).await;
    assert_eq!(apply_to(&lab.records, stale, &wanted, ADA, NOON).await.unwrap(), None);
}

#[tokio::test]
async fn a_base_that_never_was_is_refused_and_one_that_is_fits() {
    let lab = Lab::new().await;
    let mut wanted = request(&fleet("shop", WEB));
    wanted.base_revision = Some(7);
    let error = lab.fleets().apply(wanted.clone(), ADA, NOON).await.unwrap_err();
    assert!(matches!(&error, Refusal::Conflict(text) if text.contains("has none at all")));
    wanted.base_revision = Some(0);
    assert_eq!(lab.fleets().apply(wanted.clone(), ADA, NOON).await.unwrap().revision, 1);
    // An answer that was lost: the same again is no conflict.
    let again = lab.fleets().apply(wanted, ADA, NOON).await.unwrap();
    assert_eq!((again.revision, again.changed), (1, false));
}

#[tokio::test]
async fn a_timeout_has_a_limit_and_a_source_is_a_line() {
    let lab = Lab::new().await;
    let mut wanted = request(&fleet("shop", WEB));
    wanted.timeout_ms = 25 * 60 * 60 * 1000;
    let error = lab.fleets().apply(wanted.clone(), ADA, NOON).await.unwrap_err();
    assert!(error.to_string().contains("24 hours"), "{error}");
    wanted.timeout_ms = 0;
    wanted.source = "two\nlines".into();
    let error = lab.fleets().apply(wanted, ADA, NOON).await.unwrap_err();
    assert!(error.to_string().contains("one line"), "{error}");
}

#[tokio::test]
async fn another_fleets_machine_name_is_not_taken() {
    let lab = Lab::new().await;
    lab.apply("a", &[("b-c", "app:1", "h1")]).await.unwrap();
    let error = lab.apply("a-b", &[("c", "app:1", "h3")]).await.unwrap_err();
    assert!(error.to_string().contains("a-b-c"), "{error}");
}

#[tokio::test]
async fn fleets_are_listed_with_their_rollouts_and_instances() {
    let lab = Lab::new().await;
    rolled(&lab, WEB).await;
    let fleets = lab.fleets().list(NOON).await.unwrap().fleets;
    assert_eq!(fleets.len(), 1);
    let rollout = fleets[0].rollout.as_ref().unwrap();
    assert_eq!((fleets[0].revision, rollout.hosts[0].name.as_str()), (1, "h1"));
    let request = |fleet: &str| GetFleetStatusRequest { fleet: fleet.into() };
    let status = lab.fleets().status(request("shop"), NOON).await.unwrap();
    assert_eq!(status.instances.len(), 2);
    assert!(status.instances[0].wanted.is_some() && status.instances[0].observed.is_some());
    let error = lab.fleets().status(request("shpo"), NOON).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no fleet shpo (did you mean shop?)");
}

#[tokio::test]
async fn what_came_between_is_told_in_short_and_without_secrets() {
    let lab = Lab::new().await;
    rolled(&lab, &[("gone", "app:1", "h1"), ("main", "app:1", "role=web")]).await;
    let mut second = fleet("shop", &[("main", "app:1", "role=db"), ("new", "app:1", "h1")]);
    let settings = &mut second.instances.values_mut().next().unwrap().settings;
    settings.env.insert("TOKEN".parse().unwrap(), "secret".into());
    lab.fleets().apply(request(&second), ADA, NOON).await.unwrap();
    let mut third = request(&fleet("shop", WEB));
    third.base_revision = Some(1);
    let error = lab.fleets().apply(third.clone(), ADA, NOON).await.unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().skip(1).collect();
    let wanted = [
        "What differs from revision 1:",
        "  gone: removed",
        "  main: env.TOKEN changed",
        "  main: hosts: role=web -> role=db",
        "  new: new",
    ];
    assert_eq!(lines, wanted);
    let names: Vec<String> = (0..40).map(|n| format!("i{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "app:1", "h1")).collect();
    lab.apply("shop", &many).await.unwrap();
    let error = lab.fleets().apply(third, ADA, NOON).await.unwrap_err().to_string();
    assert!(error.lines().count() == 13 && error.ends_with("\n  … and 32 more"), "{error}");
}

#[tokio::test]
async fn a_tag_that_moved_between_is_told_too() {
    let lab = Lab::new().await;
    rolled(&lab, WEB).await;
    lab.image("app:1", 3).await;
    lab.apply("shop", WEB).await.unwrap();
    let mut wanted = request(&fleet("shop", &[("main", "app:2", "role=web")]));
    wanted.base_revision = Some(1);
    let error = lab.fleets().apply(wanted, ADA, NOON).await.unwrap_err().to_string();
    let moved = "  main: image app:1 was pushed anew: 010101010101 -> 030303030303";
    assert!(error.ends_with(moved), "{error}");
}

fn counted(name: &str, instance: &str, count: u32) -> FleetSpec {
    let mut spec = fleet(name, &[(instance, "app:1", "*")]);
    spec.instances.values_mut().for_each(|declared| declared.count = Some(count));
    spec
}

#[tokio::test]
async fn counted_instances_spread_over_all_fleets_and_stay() {
    let lab = Lab::new().await;
    let seats = async |spec: &FleetSpec| {
        let applied = lab.fleets().apply(request(spec), ADA, NOON).await.unwrap();
        let number = applied.revision;
        if applied.changed {
            lab.roll(spec.fleet.as_str(), number).await;
        }
        let stored = inventory::revision(&lab.records, spec.fleet.as_str(), number).await.unwrap();
        let on = stored.hosts.into_iter().filter(|(_, there)| !there.is_empty());
        on.map(|(host, _)| host.to_string()).collect::<Vec<_>>()
    };
    let first = seats(&counted("one", "main", 2)).await;
    let second = seats(&counted("two", "main", 1)).await;
    assert_eq!((first.len(), second.len()), (2, 1));
    assert!(!first.contains(&second[0]), "{first:?} {second:?}");
    lab.host("h4", "web").await;
    assert_eq!(seats(&counted("one", "main", 2)).await, first, "an empty host moves nothing");
    let more = seats(&counted("one", "main", 3)).await;
    assert!(first.iter().all(|host| more.contains(host)), "{more:?}");
    assert!(more.contains(&"id-h4".to_owned()), "{more:?}");
    let error = lab.fleets().apply(request(&counted("one", "main", 5)), ADA, NOON).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("count = 5, and only 4 hosts match"), "{error}");
}

#[tokio::test]
async fn a_port_of_another_fleet_is_not_taken() {
    let lab = Lab::new().await;
    let web = |name: &str, hosts: &str| {
        let mut spec = fleet(name, &[("main", "app:1", hosts)]);
        let settings = &mut spec.instances.values_mut().next().unwrap().settings;
        settings.ports = vec!["80".parse().unwrap()];
        request(&spec)
    };
    lab.fleets().apply(web("one", "h1,h2"), ADA, NOON).await.unwrap();
    // The driver has told nobody yet: the revision alone counts.
    let error = lab.fleets().apply(web("two", "*"), ADA, NOON).await.unwrap_err().to_string();
    let wanted = "instance main on hosts h1, h2: port 80/tcp of the host is also that of one/main;";
    assert!(error.starts_with(wanted), "{error}");
    lab.fleets().apply(web("two", "h3"), ADA, NOON).await.unwrap();
    let moved = lab.fleets().apply(web("one", "h2"), ADA, NOON).await.unwrap();
    lab.roll("one", moved.revision).await;
    lab.fleets().apply(web("two", "h1"), ADA, NOON).await.unwrap();
}

#[tokio::test]
async fn what_comes_after_is_judged_over_all_fleets() {
    let lab = Lab::new().await;
    let ordered = |name: &str, after: &[&str]| {
        let mut spec = fleet(name, &[("main", "app:1", "h1")]);
        let settings = &mut spec.instances.values_mut().next().unwrap().settings;
        settings.after = after.iter().map(|id| id.parse().unwrap()).collect();
        request(&spec)
    };
    let error = lab.fleets().apply(ordered("two", &["one/main"]), ADA, NOON).await.unwrap_err();
    assert!(error.to_string().contains("fleet one must be applied with it first"), "{error}");
    lab.fleets().apply(ordered("one", &[]), ADA, NOON).await.unwrap();
    lab.fleets().apply(ordered("two", &["one/main"]), ADA, NOON).await.unwrap();
    let error = lab.fleets().apply(ordered("one", &["two/main"]), ADA, NOON).await.unwrap_err();
    assert!(error.to_string().contains("one/main after two/main after one/main"), "{error}");
    let plan = lab
        .fleets()
        .plan(PlanRequest { spec: ordered("two", &[]).spec, recreate: None })
        .await
        .unwrap();
    assert_eq!(shown(&plan.changes), ["CREATE main@h1"], "the host was told of none yet");
    lab.roll("two", 1).await;
    let plan = lab
        .fleets()
        .plan(PlanRequest { spec: ordered("two", &[]).spec, recreate: None })
        .await
        .unwrap();
    assert_eq!(shown(&plan.changes), ["REFRESH main@h1"], "an order is changed in place");
}

#[tokio::test]
async fn a_host_that_can_not_is_named_before_anything_is_touched() {
    let lab = Lab::new().await;
    let facts = |memory: u64| HostFacts { memory, idmapped_squashfs: true, ..HostFacts::default() };
    lab.facts("h1", Some(facts(1 << 30))).await;
    lab.facts("h3", Some(facts(8 << 30))).await;
    let mut spec = fleet("shop", &[("main", "app:1", "*")]);
    let settings = &mut spec.instances.values_mut().next().unwrap().settings;
    settings.limits.memory = Some(Memory(2 << 30));
    let text = invalid(
        lab.fleets().plan(PlanRequest { spec: Some(spec.clone().into()), recreate: None }).await,
    );
    assert_eq!(
        text,
        "instance main on host h1: limits.memory is 2G, and the host has 1G; give it less, or \
         another host"
    );
    // An agent of before does not tell its policy, and may well allow it.
    let silent = v1::HostFacts { policy: None, ..facts(1 << 30).into() };
    lab.wire_facts("h1", Some(silent)).await;
    assert!(
        lab.fleets().plan(PlanRequest { spec: Some(spec.into()), recreate: None }).await.is_ok()
    );
}

/// A fleet on h1 and h2 whose instance has as many secrets, named s0, s1, ….
fn with_secrets(number: usize) -> FleetSpec {
    let mut spec = fleet("shop", WEB);
    let declared = spec.instances.values_mut().next().unwrap();
    for n in 0..number {
        declared.secrets.insert(format!("c{n}").parse().unwrap(), format!("s{n}").parse().unwrap());
    }
    spec
}

/// Makes `version` the newest of a secret, whatever its value.
async fn secret(lab: &Lab, name: &str, version: u64) {
    let id = crate::secrets::record_id(&name.parse().unwrap(), version).unwrap();
    lab.put(&id, &SecretRecord::default()).await;
    lab.put(name, &SecretHeadRecord { version }).await;
}

async fn plan_of(lab: &Lab, spec: &FleetSpec) -> Result<PlanResponse, Refusal> {
    lab.fleets().plan(PlanRequest { spec: Some(spec.clone().into()), recreate: None }).await
}

#[tokio::test]
async fn a_new_version_of_a_secret_is_a_change() {
    let lab = Lab::new().await;
    let spec = with_secrets(1);
    let text = invalid(plan_of(&lab, &spec).await);
    assert!(text.starts_with("instance main: secret s0 is not known; make it with"), "{text}");
    secret(&lab, "s0", 1).await;
    let first = lab.fleets().apply(request(&spec), ADA, NOON).await.unwrap();
    lab.roll("shop", first.revision).await;
    assert!(!plan_of(&lab, &spec).await.unwrap().changes_anything);

    secret(&lab, "s0", 2).await;
    let plan = plan_of(&lab, &spec).await.unwrap();
    assert!(plan.changes_anything && !plan.retries);
    assert_eq!(shown(&plan.changes), ["REPLACE main@h1", "REPLACE main@h2"]);
    let fields = plan.changes[0].fields.iter().map(|field| {
        let v1::FieldChange { field, from, to } = field;
        format!("{field}: {} → {}", from.as_deref().unwrap(), to.as_deref().unwrap())
    });
    assert_eq!(fields.collect::<Vec<_>>(), ["secrets.c0: s0 version 1 → s0 version 2"]);
    let second = lab.fleets().apply(request(&spec), ADA, NOON).await.unwrap();
    assert_eq!((second.revision, second.changed), (2, true));
    // While it rolls out, too.
    secret(&lab, "s0", 3).await;
    assert!(plan_of(&lab, &spec).await.unwrap().changes_anything);
    let pinned = inventory::revision(&lab.records, "shop", 2).await.unwrap().hosts;
    let versions = pinned.values().flat_map(|on| on.values()).flat_map(|config| {
        config.settings.secrets.values().map(|secret| secret.version).collect::<Vec<_>>()
    });
    assert_eq!(versions.collect::<Vec<_>>(), [2, 2], "a revision keeps what it pinned");

    let mut stale = request(&fleet("shop", &[("main", "app:2", "role=web")]));
    stale.base_revision = Some(1);
    let error = lab.fleets().apply(stale, ADA, NOON).await.unwrap_err().to_string();
    assert!(error.ends_with("\n  main: secrets.c0: s0 version 1 -> version 2"), "{error}");
}

#[tokio::test]
async fn a_secret_that_was_removed_is_not_known() {
    let lab = Lab::new().await;
    lab.put("s0", &SecretHeadRecord { version: 4 }).await;
    let text = invalid(plan_of(&lab, &with_secrets(1)).await);
    assert!(text.starts_with("instance main: secret s0 is not known"), "{text}");
}

/// The removal of a secret is decided on what fleets name; an apply must not come in between.
#[tokio::test]
async fn a_secret_that_has_changed_since_makes_the_apply_read_again() {
    let lab = Lab::new().await;
    secret(&lab, "s0", 1).await;
    let wanted = Wanted::try_from(request(&with_secrets(1))).unwrap();
    let stale = World::load(&lab.records, &wanted.spec).await.unwrap();
    secret(&lab, "s0", 2).await;
    assert_eq!(apply_to(&lab.records, stale, &wanted, ADA, NOON).await.unwrap(), None);
}

#[tokio::test]
async fn secrets_of_a_host_have_to_fit_a_message() {
    let lab = Lab::new().await;
    for n in 0..112 {
        secret(&lab, &format!("s{n}"), 1).await;
    }
    let text = invalid(plan_of(&lab, &with_secrets(112)).await);
    let wanted = "the fleet names 113 images and secrets together, and at most 112 go into one";
    assert!(text.starts_with(wanted), "{text}");
    let first = lab.fleets().apply(request(&with_secrets(111)), ADA, NOON).await.unwrap();
    assert_eq!(first.revision, 1);

    let mut other = fleet("other", &[("main", "app:1", "h1,h3")]);
    let declared = other.instances.values_mut().next().unwrap();
    for n in 0..20 {
        secret(&lab, &format!("o{n}"), 1).await;
        declared.secrets.insert(format!("c{n}").parse().unwrap(), format!("o{n}").parse().unwrap());
    }
    let text = invalid(plan_of(&lab, &other).await);
    let wanted = "host h1 would need 131 secrets with fleet other, and at most 120 go to one host;";
    assert!(text.starts_with(wanted) && text.lines().count() == 1, "{text}");
    lab.roll("shop", 1).await;
    assert_eq!(invalid(plan_of(&lab, &other).await), text, "told or not is the same");
}

#[tokio::test]
async fn containers_are_made_afresh_where_asked_and_nothing_else_differs() {
    let lab = Lab::new().await;
    let mut spec = fleet("shop", &[("main", "app:1", "*")]);
    let main = spec.instances.values_mut().next().unwrap();
    let volume = DataVolume { path: "/var/x".parse().unwrap(), owner: Owner::default() };
    main.settings.data.insert("var".parse().unwrap(), volume);
    lab.fleets().apply(request(&spec), ADA, NOON).await.unwrap();
    lab.roll("shop", 1).await;
    let asked = |selector: &str| Some(v1::Recreate { selector: selector.into() });
    let plan = async |selector: &str| {
        let (spec, recreate) = (Some(spec.clone().into()), asked(selector));
        lab.fleets().plan(PlanRequest { spec, recreate }).await
    };
    let planned = plan("role=web").await.unwrap();
    assert_eq!((planned.base_revision, planned.changes_anything), (1, true));
    assert_eq!(shown(&planned.changes), ["RECREATE main@h1", "RECREATE main@h2", "KEEP main@h3"]);
    assert_eq!(planned.changes[0].data, ["var"]);
    assert!(planned.changes[0].fields.is_empty() && planned.changes[2].data.is_empty());
    let text = invalid(plan("role=wbe").await);
    assert!(
        text.contains("none of the hosts of fleet shop matches role=wbe; they are h1"),
        "{text}"
    );
    assert!(invalid(plan("role=").await).starts_with("selector "));
    let wanted = |selector: &str, replace| ApplyRequest {
        recreate: asked(selector),
        replace,
        ..request(&spec)
    };
    let refused = lab.fleets().apply(wanted("role=wbe", false), ADA, NOON).await;
    assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
    let applied = lab.fleets().apply(wanted("role=web", false), ADA, NOON).await.unwrap();
    assert_eq!((applied.revision, applied.changed), (2, true));
    // Once more is more than the one that is under way, and is not let in before that has ended.
    let refused = lab.fleets().apply(wanted("", false), ADA, NOON).await;
    assert!(matches!(refused, Err(Refusal::Conflict(_))), "{refused:?}");
    let same = ApplyRequest { replace: false, ..request(&spec) };
    let joined = lab.fleets().apply(same, ADA, NOON).await.unwrap();
    assert_eq!((joined.revision, joined.changed), (2, false));
    let details: Vec<String> = lab
        .records
        .list::<AuditRecord>()
        .await
        .unwrap()
        .records
        .into_iter()
        .map(|stored| stored.record.detail)
        .collect();
    assert!(
        details.contains(&"revision 2, containers made afresh on hosts h1, h2".into()),
        "{details:?}"
    );
    let applied = lab.fleets().apply(wanted("", true), ADA, NOON).await.unwrap();
    assert_eq!((applied.revision, shown(&applied.changes).len()), (3, 3));
}
