use shoal_proto::v1::{AgentPhase, AgentSpec, AgentStatus, HostFacts, HostStatus};

use super::*;
use crate::exit::Exit;

fn host(name: &str, architecture: &str, online: bool) -> Host {
    let (agent, architecture) = ("0.1.0".into(), architecture.into());
    let facts = Some(HostFacts { agent, architecture, ..HostFacts::default() });
    Host { name: name.into(), facts, online, ..Host::default() }
}

fn told(was_online: bool) -> Told {
    let agent = AgentSpec {
        version: "0.3.0".into(),
        digest: vec![1; 32].into(),
        size: 1,
        deadline_ms: 1,
        asked: 2,
    };
    let told = UpgradeAgentResponse { generation: 5, agent: Some(agent), changed: true };
    let (host, before, said) = ("h1".into(), "0.1.0".into(), String::new());
    Told { host, before, was_online, told, said, ended: None }
}

fn reporting(phase: AgentPhase, asked: u64, message: &str) -> Host {
    let agent = AgentStatus {
        version: "0.3.0".into(),
        digest: vec![1; 32].into(),
        asked,
        phase: phase.into(),
        message: message.into(),
    };
    let status = HostStatus { observed_generation: 5, agent: Some(agent), ..HostStatus::default() };
    Host { status: Some(status), ..host("h1", "x86-64", true) }
}

#[test]
fn a_host_is_followed_to_its_end() {
    let judge = |host: &Host, was_online| judge(host, &told(was_online)).unwrap();
    let end = |host: &Host| judge(host, true).1;
    let fetching = judge(&reporting(AgentPhase::Fetching, 2, "40 %"), true);
    assert_eq!(fetching, ("fetching".into(), None));
    let failed = judge(&reporting(AgentPhase::Failed, 2, "no room"), true);
    assert_eq!(failed, ("failed: no room".into(), None), "it is tried again");
    let current = reporting(AgentPhase::Current, 2, "");
    assert_eq!(end(&current), Some((Outcome::Confirmed, String::new())));
    let rejected = reporting(AgentPhase::Rejected, 2, "it does not run");
    assert_eq!(end(&rejected), Some((Outcome::Rejected, "it does not run".into())));
    let away = Host { online: false, ..reporting(AgentPhase::Trying, 2, "") };
    assert_eq!(judge(&away, true), ("restarting".into(), None), "it is being restarted");
    assert_eq!(judge(&away, false).1, Some((Outcome::Offline, String::new())));
    let stale = reporting(AgentPhase::Rejected, 1, "then");
    assert_eq!(end(&stale).unwrap().0, Outcome::TooOld, "nothing of this wish");
    let older = HostStatus { observed_generation: 4, ..HostStatus::default() };
    let older = Host { status: Some(older), ..host("h1", "x86-64", true) };
    assert_eq!(judge(&older, true), ("told".into(), None));
}

#[test]
fn hosts_of_another_kind_are_named() {
    let hosts = [host("a", "x86-64", true), host("b", "arm64", true), host("c", "", false)];
    let others = others(&hosts, &["x86-64".into()]);
    assert_eq!(others, ["b: arm64", "c: has never said which processor it has"]);
}

fn ended(outcomes: &[Outcome]) -> Exit {
    let one = |outcome: &Outcome| OneView {
        host: "h".into(),
        before: "0.1.0".into(),
        outcome: *outcome,
        reason: "why".into(),
    };
    let hosts = outcomes.iter().map(one).collect();
    let view = UpgradeView { version: Some("0.3.0".into()), hosts };
    match conclude(&view) {
        Ok(()) => Exit::Done,
        Err(error) => Failure::from(error).exit(),
    }
}

#[test]
fn each_end_has_its_code() {
    use Outcome::{Confirmed, NotTried, Offline, Rejected, TimedOut, TooOld};
    for (outcomes, exit) in [
        (vec![Confirmed, Confirmed], Exit::Done),
        (vec![Rejected, NotTried], Exit::RolledBack),
        (vec![Confirmed, Rejected, Offline], Exit::Partial),
        (vec![Confirmed, TimedOut], Exit::TimedOut),
        (vec![Confirmed, Offline], Exit::HostOffline),
        (vec![TooOld, NotTried], Exit::Precondition),
    ] {
        assert_eq!(ended(&outcomes), exit, "{outcomes:?}");
    }
}
