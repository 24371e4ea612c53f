//! Which hosts have a recipe, or some of it, and who gets it from whom.
//!
//! What each has, its agent reports; who was told to get it where is kept here, in memory: after a
//! restart of the controller the next round begins anew. `shoal_core::fanout` decides.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_core::fanout::{Asker, Has, Holder, holders_for};
use shoal_core::host::Host;
use shoal_core::name::HostId;
use shoal_core::status::HostStatus;
use shoal_core::transfer::{Phase, RecipeId};
use shoal_proto::v1::PeerSource;
use shoal_tls::{Identity, Subject, TrustDomain};
use tokio::time::Instant;

/// The label by which hosts are near one another.
const SITE: &str = "site";

/// How long after it was told a host counts as receiving though it does not say so.
const BEGINNING: Duration = Duration::from_secs(15);

/// How long a round without questions is remembered.
const OVER: Duration = Duration::from_secs(3600);

/// Who asked for which recipe.
#[derive(Debug, Default)]
pub(super) struct Holders {
    rounds: Mutex<HashMap<RecipeId, Round>>,
}

#[derive(Debug)]
struct Round {
    asked: HashMap<HostId, Asked>,
    last: Instant,
}

#[derive(Debug)]
struct Asked {
    turn: u64,
    /// The host that it was told to ask first.
    from: Option<HostId>,
    at: Instant,
}

/// Who asks, for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) host: &'a HostId,
    pub(super) recipe: RecipeId,
    /// Bytes of the image.
    pub(super) size: u64,
    /// Hosts that were of no help to it.
    pub(super) failed: &'a [HostId],
}

impl Holders {
    /// The hosts that should be asked, the best first. `status` gives what a host that is
    /// connected has last reported.
    pub(super) fn answer(
        &self,
        question: Question<'_>,
        hosts: &[Host],
        trust_domain: &TrustDomain,
        status: impl Fn(&HostId) -> Option<Arc<HostStatus>>,
    ) -> Vec<PeerSource> {
        let Question { host, recipe, size, failed } = question;
        let Some(site) = hosts.iter().find(|other| other.id == *host).map(site) else {
            return vec![];
        };
        let mut rounds = self.rounds();
        let now = Instant::now();
        rounds.retain(|_, round| now.duration_since(round.last) < OVER);
        let round =
            rounds.entry(recipe).or_insert_with(|| Round { asked: HashMap::new(), last: now });
        round.last = now;
        let next = u64::try_from(round.asked.len()).unwrap_or(u64::MAX);
        let turn = round.asked.get(host).map_or(next, |asked| asked.turn);
        // Whoever asks gets it nowhere at the moment.
        round.asked.insert(host.clone(), Asked { turn, from: None, at: now });
        let holders: Vec<Holder> = hosts
            .iter()
            .filter(|other| !failed.contains(&other.id) && serves_at(other).is_some())
            .filter_map(|other| holder(other, recipe, round, &status))
            .collect();
        let asker = Asker { host, site, turn };
        let chosen: Vec<HostId> = holders_for(asker, size, &holders).into_iter().cloned().collect();
        if let Some(asked) = round.asked.get_mut(host) {
            asked.from = chosen.first().cloned();
        }
        let find = |id: &HostId| hosts.iter().find(|other| other.id == *id);
        chosen.iter().filter_map(|id| peer(find(id)?, trust_domain)).collect()
    }

    fn rounds(&self) -> MutexGuard<'_, HashMap<RecipeId, Round>> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn site(host: &Host) -> &str {
    host.labels.get(SITE).map_or("", String::as_str)
}

/// The address at which a host serves others.
fn serves_at(host: &Host) -> Option<SocketAddr> {
    let facts = host.facts.as_ref()?;
    let mut at = facts.policy.peers?.listen;
    if at.ip().is_unspecified() {
        at.set_ip(facts.address?);
    }
    Some(at)
}

fn holder(
    host: &Host,
    recipe: RecipeId,
    round: &Round,
    status: impl Fn(&HostId) -> Option<Arc<HostStatus>>,
) -> Option<Holder> {
    let reported = status(&host.id)?;
    let asked = round.asked.get(&host.id);
    let has = match (reported.serves.contains(&recipe), asked) {
        (true, _) => Has::All,
        (false, Some(asked))
            if is_receiving(&reported, recipe) || asked.at.elapsed() < BEGINNING =>
        {
            Has::Some { received: received(&reported, recipe), turn: asked.turn }
        }
        (false, _) => return None,
    };
    let told = round.asked.iter().filter(|(_, asked)| asked.from.as_ref() == Some(&host.id));
    let serving = told.filter(|(id, asked)| {
        let going = status(id).is_some_and(|status| is_receiving(&status, recipe));
        going || asked.at.elapsed() < BEGINNING && !is_done(status(id).as_deref(), recipe)
    });
    Some(Holder {
        host: host.id.clone(),
        site: site(host).to_owned(),
        has,
        serving: serving.count(),
    })
}

fn received(status: &HostStatus, recipe: RecipeId) -> u64 {
    let going = status.transfers.iter().filter(|transfer| transfer.recipe == Some(recipe));
    going.map(|transfer| transfer.received).max().unwrap_or(0)
}

fn is_receiving(status: &HostStatus, recipe: RecipeId) -> bool {
    let mut transfers = status.transfers.iter();
    transfers.any(|t| t.recipe == Some(recipe) && t.phase == Phase::Receiving)
}

fn is_done(status: Option<&HostStatus>, recipe: RecipeId) -> bool {
    let done = |status: &HostStatus| {
        let mut transfers = status.transfers.iter();
        transfers.any(|t| t.recipe == Some(recipe) && t.phase == Phase::Done)
    };
    status.is_some_and(done)
}

fn peer(host: &Host, trust_domain: &TrustDomain) -> Option<PeerSource> {
    let at = serves_at(host)?;
    let subject = Subject::Agent(host.id.as_str().to_owned());
    let identity = Identity::new(trust_domain.clone(), subject).ok()?;
    Some(PeerSource {
        host_id: host.id.to_string(),
        host: host.name.to_string(),
        address: at.ip().to_string(),
        port: at.port().into(),
        identity: identity.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use shoal_core::host::HostFacts;
    use shoal_core::policy::{PeerPolicy, Policy};
    use shoal_core::transfer::TransferStatus;

    use super::*;

    const MIB: u64 = 1 << 20;
    const RECIPE: [u8; 32] = [7; 32];

    fn host(number: u8, site: &str) -> Host {
        let peers = Some(PeerPolicy { listen: "0.0.0.0:7445".parse().unwrap(), rate: None });
        let facts = HostFacts {
            address: Some([10, 0, 0, number].into()),
            policy: Policy { peers, ..Policy::default() },
            ..HostFacts::default()
        };
        Host {
            id: format!("h{number}").parse().unwrap(),
            name: format!("web-{number}").parse().unwrap(),
            labels: [("site".to_owned(), site.to_owned())].into_iter().collect(),
            facts: Some(facts),
            cordon: None,
        }
    }

    /// What hosts report: how many MiB each has, or that it has all.
    #[derive(Default)]
    struct Stage {
        hosts: Vec<Host>,
        reports: HashMap<HostId, Arc<HostStatus>>,
        holders: Holders,
    }

    impl Stage {
        fn new(sites: &[&str]) -> Self {
            let numbered = (1..).zip(sites);
            let hosts: Vec<Host> = numbered.map(|(number, site)| host(number, site)).collect();
            let silent = |host: &Host| (host.id.clone(), Arc::default());
            let reports = hosts.iter().map(silent).collect();
            Self { hosts, reports, holders: Holders::default() }
        }

        fn has(&mut self, number: usize, mib: u64, phase: Phase) {
            let transfer = TransferStatus {
                digest: [1; 32].into(),
                image: "a:1".parse().unwrap(),
                phase,
                received: mib * MIB,
                total: 100 * MIB,
                wire: 0,
                saved: 0,
                source: "controller".into(),
                left: None,
                recipe: Some(RECIPE.into()),
            };
            let serves = if phase == Phase::Done { vec![RECIPE.into()] } else { vec![] };
            let status = HostStatus { transfers: vec![transfer], serves, ..HostStatus::default() };
            self.reports.insert(self.hosts[number - 1].id.clone(), Arc::new(status));
        }

        fn ask(&self, number: usize, failed: &[&str]) -> Vec<String> {
            let failed: Vec<HostId> = failed.iter().map(|id| id.parse().unwrap()).collect();
            let host = &self.hosts[number - 1].id;
            let (recipe, size) = (RECIPE.into(), 100 * MIB);
            let question = Question { host, recipe, size, failed: &failed };
            let status = |host: &HostId| self.reports.get(host).cloned();
            let domain = "x".parse().unwrap();
            let peers = self.holders.answer(question, &self.hosts, &domain, status);
            peers.into_iter().map(|peer| format!("{} {}", peer.host, peer.address)).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_that_ask_one_after_the_other_make_a_chain_at_each_site() {
        let stage = Stage::new(&["a", "a", "b", "a", "b"]);
        assert_eq!(stage.ask(1, &[]), [""; 0]);
        assert_eq!(stage.ask(2, &[]), ["web-1 10.0.0.1"]);
        assert_eq!(stage.ask(3, &[]), [""; 0]);
        assert_eq!(stage.ask(4, &[]), ["web-2 10.0.0.2", "web-1 10.0.0.1"]);
        assert_eq!(stage.ask(5, &[]), ["web-3 10.0.0.3"]);
        // Who asks again gets the same place.
        assert_eq!(stage.ask(2, &[]), ["web-1 10.0.0.1"]);
        assert_eq!(stage.ask(2, &["h1"]), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_all_serves_again_when_those_before_are_done() {
        let mut stage = Stage::new(&["", "", "", ""]);
        stage.has(1, 100, Phase::Done);
        assert_eq!(stage.ask(2, &[])[0], "web-1 10.0.0.1");
        stage.has(2, 3, Phase::Receiving);
        assert_eq!(stage.ask(3, &[])[0], "web-2 10.0.0.2");
        stage.has(2, 100, Phase::Done);
        stage.has(3, 100, Phase::Done);
        assert_eq!(stage.ask(4, &[])[0], "web-1 10.0.0.1");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_told_and_does_nothing_is_not_served_for_ever() {
        let mut stage = Stage::new(&["", "", ""]);
        stage.has(1, 100, Phase::Done);
        stage.reports.remove(&"h2".parse().unwrap());
        assert_eq!(stage.ask(2, &[])[0], "web-1 10.0.0.1");
        let serving = |stage: &Stage| {
            let rounds = stage.holders.rounds();
            let status = |host: &HostId| stage.reports.get(host).cloned();
            holder(&stage.hosts[0], RECIPE.into(), &rounds[&RECIPE.into()], status)
        };
        assert_eq!(serving(&stage).unwrap().serving, 1);
        tokio::time::advance(BEGINNING).await;
        assert_eq!(serving(&stage).unwrap().serving, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_that_do_not_serve_are_not_named() {
        let mut stage = Stage::new(&["", "", "", ""]);
        for number in 1..=3 {
            stage.has(number, 100, Phase::Done);
        }
        // By its policy; not connected; removed.
        stage.hosts[0].facts.as_mut().unwrap().policy.peers = None;
        stage.reports.remove(&"h2".parse().unwrap());
        stage.hosts.remove(2);
        assert_eq!(stage.ask(3, &[]), [""; 0]);
    }
}
