//! Cordons, drains and removals over a store, with agents that do as they are told.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_core::fleet::FleetSpec;
use shoal_proto::v1::store::{
    AuditRecord, HostNameRecord, HostRecord, HostSpecRecord, RevisionRecord, TokenRecord, TokenUse,
};
use shoal_proto::v1::{
    DrainEnd, DrainHostResponse, PlanRequest, RemoveHostRequest, RemoveHostResponse, RolloutState,
};

use super::drain::Drain;
use super::{cordon, removal, tokens};
use crate::fleets_api::tests_support::{ADA, Agent, Lab, NOON, fleet, pinned, request};
use crate::inventory;
use crate::records::revision_id;
use crate::refusal::Refusal;

const WEB: &[(&str, &str, &str)] = &[("web", "app:1", "role=web")];

/// A lab whose hosts can be found by their names.
async fn lab() -> Lab {
    let lab = Lab::new().await;
    for name in ["h1", "h2", "h3"] {
        lab.put(name, &HostNameRecord { id: format!("id-{name}") }).await;
    }
    lab
}

async fn cordoned(lab: &Lab, name: &str, drains: bool) -> (HostRecord, bool) {
    let wanted = cordon::Wanted { name, reason: "bad disk", drains };
    cordon::set(&lab.records, &ADA, &wanted, NOON).await.unwrap()
}

async fn uncordoned(lab: &Lab, name: &str) -> (bool, Vec<String>) {
    let (record, changed) = cordon::end(&lab.records, &ADA, name).await.unwrap();
    (changed, cordon::coming_back(&lab.records, &record).await.unwrap())
}

/// `count` of an instance among the hosts.
fn counted(instance: &str, count: u32) -> FleetSpec {
    let mut spec = fleet("wiki", &[(instance, "app:1", "*")]);
    spec.instances.values_mut().for_each(|declared| declared.count = Some(count));
    spec
}

async fn applied(lab: &Lab, spec: &FleetSpec) -> u64 {
    let revision = lab.fleets().apply(request(spec), ADA, NOON).await.unwrap().revision;
    lab.roll(spec.fleet.as_str(), revision).await;
    revision
}

async fn audited(lab: &Lab) -> Vec<(String, String)> {
    let entries = lab.records.list::<AuditRecord>().await.unwrap().records;
    entries.into_iter().map(|entry| (entry.record.what, entry.record.target)).collect()
}

/// The hosts that a fleet's newest revision is on.
async fn placed(lab: &Lab, fleet: &str, revision: u64) -> Vec<String> {
    let revision = inventory::revision(&lab.records, fleet, revision).await.unwrap();
    let there = revision.hosts.iter().filter(|(_, there)| !there.is_empty());
    there.map(|(host, _)| host.as_str().trim_start_matches("id-").to_owned()).collect()
}

fn drain(lab: &Lab, name: &str) -> Drain {
    Drain {
        records: lab.records.clone(),
        live: lab.live.clone(),
        fleets: lab.fleets(),
        who: ADA.to_owned(),
        host: format!("id-{name}").parse().unwrap(),
        name: name.to_owned(),
        timeout: Duration::from_secs(60),
        known: BTreeMap::new(),
        revisions: BTreeMap::new(),
    }
}

async fn look(drain: &mut Drain) -> DrainHostResponse {
    drain.look(NOON, false).await.unwrap()
}

fn whys(report: &DrainHostResponse) -> Vec<String> {
    report.fleets.iter().map(|fleet| format!("{}: {}", fleet.fleet, fleet.why)).collect()
}

#[tokio::test]
async fn a_cordon_is_kept_told_and_heeded() {
    let lab = lab().await;
    applied(&lab, &fleet("shop", WEB)).await;
    let (record, changed) = cordoned(&lab, "h2", false).await;
    assert!(changed);
    assert_eq!(record.cordon.unwrap().by, ADA);
    assert!(!cordoned(&lab, "h2", false).await.1, "it is so already");
    let both = [("web", "app:1", "role=web"), ("db", "app:1", "*")];
    let spec = Some(fleet("shop", &both).into());
    let plan = lab.fleets().plan(PlanRequest { spec, recreate: None }).await.unwrap();
    let note = "h2 is cordoned (ada: bad disk): instance db is not placed there".to_owned();
    assert_eq!(plan.notes, std::slice::from_ref(&note));
    let applied = lab.apply("shop", &both).await.unwrap();
    assert_eq!(applied.notes, [note]);
    lab.roll("shop", applied.revision).await;
    let on = |spec: shoal_core::host::HostSpec| -> Vec<String> {
        spec.instances.iter().map(|instance| instance.id.to_string()).collect()
    };
    assert_eq!(on(lab.spec("h2").await), ["shop/web"], "what it had stays");
    assert_eq!(on(lab.spec("h1").await), ["shop/db", "shop/web"]);
    assert_eq!(uncordoned(&lab, "h2").await, (true, vec!["shop".to_owned()]));
    assert_eq!(uncordoned(&lab, "h2").await, (false, vec!["shop".to_owned()]));
    let all = audited(&lab).await;
    for what in ["Hosts/Cordon", "Hosts/Uncordon"] {
        let entries = all.iter().filter(|(found, host)| found == what && host == "h2");
        assert_eq!(entries.count(), 1, "{all:?}");
    }
}

#[tokio::test]
async fn a_reason_is_one_line() {
    let lab = lab().await;
    for reason in ["two\nlines", &"x".repeat(300)] {
        let wanted = cordon::Wanted { name: "h2", reason, drains: false };
        let refused = cordon::set(&lab.records, &ADA, &wanted, NOON).await;
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
    }
    let wanted = cordon::Wanted { name: "h22", reason: "", drains: false };
    let unknown = cordon::set(&lab.records, &ADA, &wanted, NOON).await.unwrap_err();
    assert!(unknown.to_string().contains("did you mean h2?"), "{unknown}");
}

#[tokio::test]
async fn a_drain_moves_what_is_counted_and_stops_the_rest() {
    let lab = lab().await;
    applied(&lab, &fleet("shop", WEB)).await;
    applied(&lab, &counted("app", 2)).await;
    let host = placed(&lab, "wiki", 1).await.remove(0);
    let elsewhere = fleet("other", &[("x", "app:1", "h3")]);
    applied(&lab, &elsewhere).await;
    // A newer image under the same name is not what a drain is for.
    lab.image("app:1", 3).await;
    let agents: Vec<Agent> = ["h1", "h2", "h3"].map(|name| lab.connect(name)).into();
    for agent in &agents {
        agent.catch_up(&lab).await;
    }

    cordoned(&lab, &host, true).await;
    let mut drain = drain(&lab, &host);
    let begun = look(&mut drain).await;
    assert_eq!(begun.end(), DrainEnd::Unspecified);
    let fleets: Vec<&str> = begun.fleets.iter().map(|fleet| fleet.fleet.as_str()).collect();
    let expected: &[&str] = if host == "h3" { &["other", "wiki"] } else { &["shop", "wiki"] };
    assert_eq!(fleets, expected, "{begun:?}");
    for fleet in fleets {
        assert_eq!(lab.rollout(fleet, 2).await.record.state(), RolloutState::Planned);
        let all: Vec<&Agent> = agents.iter().collect();
        assert!(lab.settle(fleet, 2, &all, NOON).await);
    }
    let over = look(&mut drain).await;
    assert_eq!((over.end(), whys(&over).len()), (DrainEnd::Empty, 2), "{over:?}");
    assert!(lab.spec(&host).await.instances.is_empty());
    let after = placed(&lab, "wiki", 2).await;
    assert!(after.len() == 2 && !after.contains(&host), "{after:?}");
    let revision = lab.records.get::<RevisionRecord>(&revision_id("wiki", 2)).await.unwrap();
    let record = revision.unwrap().record;
    assert_eq!((record.source, record.author.as_str()), (format!("drain of {host}"), ADA));
    let revision = inventory::revision(&lab.records, "wiki", 2).await.unwrap();
    let images = revision.hosts.values().flat_map(|there| there.values());
    assert!(images.map(|config| &config.image).all(|image| *image == pinned("app:1", 1)));
}

#[tokio::test]
async fn a_drain_waits_for_others_and_says_what_can_not_move() {
    let lab = lab().await;
    applied(&lab, &counted("app", 3)).await;
    applied(&lab, &fleet("shop", WEB)).await;
    let agents: Vec<Agent> = ["h1", "h2", "h3"].map(|name| lab.connect(name)).into();
    for agent in &agents {
        agent.catch_up(&lab).await;
    }
    let all: Vec<&Agent> = agents.iter().collect();
    let newer = [("web", "app:2", "role=web")];
    assert_eq!(lab.apply("shop", &newer).await.unwrap().revision, 2);

    cordoned(&lab, "h2", true).await;
    let mut drain = drain(&lab, "h2");
    let begun = look(&mut drain).await;
    assert_eq!(begun.end(), DrainEnd::Unspecified);
    assert_eq!(whys(&begun)[0], "shop: the rollout of revision 2 begins");
    assert!(whys(&begun)[1].contains("count = 3, and of the hosts"), "{begun:?}");
    assert!(lab.settle("shop", 2, &all, NOON).await);
    assert_eq!(whys(&look(&mut drain).await)[0], "shop: the rollout of revision 3 begins");
    let late = drain.look(NOON, true).await.unwrap();
    assert_eq!(late.end(), DrainEnd::TimedOut);
    assert!(lab.settle("shop", 3, &all, NOON).await);
    let over = look(&mut drain).await;
    assert_eq!(over.end(), DrainEnd::Left, "{over:?}");
    assert_eq!(over.fleets[1].instances, ["wiki/app"]);
    assert!(over.fleets[0].instances.is_empty() && over.fleets[0].over);

    uncordoned(&lab, "h2").await;
    let refused = drain.look(NOON, false).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Conflict(why) if why.contains("uncordoned while")));
}

#[tokio::test]
async fn an_offline_host_is_no_reason_to_wait_for_ever() {
    let lab = lab().await;
    applied(&lab, &fleet("shop", WEB)).await;
    let agents: Vec<Agent> = ["h1", "h3"].map(|name| lab.connect(name)).into();
    for agent in &agents {
        agent.catch_up(&lab).await;
    }
    cordoned(&lab, "h2", true).await;
    let mut drain = drain(&lab, "h2");
    look(&mut drain).await;
    let all: Vec<&Agent> = agents.iter().collect();
    assert!(lab.settle("shop", 2, &all, NOON).await);
    let over = look(&mut drain).await;
    assert_eq!(over.end(), DrainEnd::Left, "{over:?}");
    assert_eq!(over.fleets[0].instances, ["shop/web"]);
    assert!(over.fleets[0].why.contains("offline"), "{over:?}");
}

fn removal(name: &str, force: bool) -> RemoveHostRequest {
    RemoveHostRequest { name: name.into(), force }
}

async fn removed(lab: &Lab, name: &str, force: bool) -> Result<RemoveHostResponse, Refusal> {
    let removed = removal::forget(&lab.records, &lab.live, &ADA, &removal(name, force), NOON).await;
    removed.map(|(_, left)| left)
}

#[tokio::test]
async fn a_host_with_instances_is_not_removed_by_mistake() {
    let lab = lab().await;
    applied(&lab, &fleet("shop", WEB)).await;
    let refused = removed(&lab, "h2", false).await.unwrap_err();
    let Refusal::Precondition(why) = refused else { panic!("{refused:?}") };
    assert!(why.contains("shop/web") && why.contains("shoal host drain h2"), "{why}");
    assert_eq!(removed(&lab, "h3", false).await.unwrap(), RemoveHostResponse::default());
    let left = removed(&lab, "h2", true).await.unwrap();
    assert_eq!((left.instances, left.fleets), (vec!["shop/web".into()], vec!["shop".into()]));
    for id in ["id-h2", "id-h3"] {
        assert!(lab.records.get::<HostRecord>(id).await.unwrap().is_none());
        assert!(lab.records.get::<HostSpecRecord>(id).await.unwrap().is_none());
        assert!(lab.live.status(&id.parse().unwrap()).is_none());
    }
    assert!(lab.records.get::<HostNameRecord>("h2").await.unwrap().is_none(), "its name is free");
    let again = lab.apply("shop", WEB).await.unwrap();
    assert!(again.changed);
    assert_eq!(placed(&lab, "shop", again.revision).await, ["h1"]);
    let all = audited(&lab).await;
    assert!(all.contains(&("Hosts/Remove".into(), "h2".into())), "{all:?}");
}

#[tokio::test]
async fn what_was_not_told_yet_counts_too_and_an_old_report_does_not() {
    let lab = lab().await;
    lab.apply("shop", WEB).await.unwrap();
    let refused = removed(&lab, "h2", false).await.unwrap_err();
    assert!(refused.to_string().contains("shop/web"), "{refused}");

    let lab = self::lab().await;
    applied(&lab, &fleet("shop", WEB)).await;
    let before = lab.spec("h2").await;
    applied(&lab, &fleet("shop", &[("web", "app:1", "h1")])).await;
    assert!(lab.spec("h2").await.instances.is_empty());
    let agent = lab.connect("h2");
    agent.converge(&before);
    let refused = removed(&lab, "h2", false).await.unwrap_err();
    assert!(refused.to_string().contains("shop/web"), "it still runs there: {refused}");
    drop(agent);
    let left = removed(&lab, "h2", false).await.unwrap();
    assert_eq!(left.instances, ["shop/web"], "it is said all the same");
}

#[tokio::test]
async fn tokens_are_listed_without_secrets_and_revoked() {
    let lab = lab().await;
    let token = |expires, used: Option<&str>| TokenRecord {
        secret_sha256: vec![1; 32].into(),
        expires_ms: NOON.0 + expires,
        host_name: None,
        labels: [("role".to_owned(), "web".to_owned())].into(),
        created_by: ADA.into(),
        used: used.map(|host| TokenUse { host_id: host.into(), ..TokenUse::default() }),
    };
    lab.put("aa", &token(10, None)).await;
    lab.put("bb", &token(20, Some("id-h1"))).await;
    lab.put("cc", &token(0, None)).await;
    let ids = async |all| -> Vec<String> {
        let listed = tokens::list(&lab.records, all, NOON).await.unwrap().tokens;
        listed.into_iter().map(|token| token.id).collect()
    };
    assert_eq!(ids(false).await, ["aa"]);
    assert_eq!(ids(true).await, ["cc", "aa", "bb"]);
    let listed = tokens::list(&lab.records, true, NOON).await.unwrap().tokens;
    assert_eq!(listed[2].used_by.as_deref(), Some("h1"));

    tokens::revoke(&lab.records, &ADA, "aa", NOON).await.unwrap();
    assert_eq!(ids(false).await, [""; 0]);
    let used = tokens::revoke(&lab.records, &ADA, "bb", NOON).await.unwrap_err();
    assert!(matches!(&used, Refusal::Precondition(why) if why.contains("host h1 has joined")));
    for id in ["aa", "", "../x", "a/b"] {
        let unknown = tokens::revoke(&lab.records, &ADA, id, NOON).await.unwrap_err();
        assert!(matches!(unknown, Refusal::NotFound(_)), "{id:?}: {unknown:?}");
    }
    assert!(audited(&lab).await.contains(&("Hosts/RevokeToken".into(), "aa".into())));
}
