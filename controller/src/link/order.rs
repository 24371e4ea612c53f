//! Which instances on other hosts are ready, for those here that come after them.
//!
//! Deliberately absent: waiting for them. The agent does that.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_core::name::{HostId, InstanceId};
use shoal_core::status::{HostStatus, Verdict};
use shoal_proto::v1::HostSpec;

use super::desired::Told;

/// What the instances of a desired state come after.
pub(super) fn after(spec: &HostSpec) -> BTreeSet<InstanceId> {
    let settings = spec.instances.iter().filter_map(|i| i.config.as_ref()?.settings.as_ref());
    settings.flat_map(|settings| &settings.after).filter_map(|id| id.parse().ok()).collect()
}

/// Those of `after` that are ready on every other host than `here` that is online, and on one at
/// least; `None` where all of them are
/// here alone, so that there is nothing to tell. `status` gives what a host that is online has
/// last reported.
///
/// Ready is what its host proved so in the generation that it was told last: before that, a
/// report may be of what was wanted before. What is on no host is not waited for.
pub(super) fn ready_elsewhere(
    here: &HostId,
    after: &BTreeSet<InstanceId>,
    told: &Told,
    status: impl Fn(&HostId) -> Option<Arc<HostStatus>>,
) -> Option<BTreeSet<InstanceId>> {
    let only_here = |id: &InstanceId| {
        let mut places = told.places(id).peekable();
        places.peek().is_some() && places.all(|(host, _)| host == here)
    };
    let elsewhere: Vec<&InstanceId> = after.iter().filter(|id| !only_here(id)).collect();
    if elsewhere.is_empty() {
        return None;
    }
    let is_ready = |id: &InstanceId| {
        let mut places = told.places(id).filter(|(host, _)| *host != here).peekable();
        let nowhere = places.peek().is_none();
        // A host that is offline holds up no other, as long as there is one that is ready.
        let mut known = places.filter_map(|(host, generation)| Some((status(host)?, generation)));
        let mut ready = known.by_ref().map(|(status, told)| is_ready_in(&status, id, told));
        nowhere || ready.next().is_some_and(|first| first && ready.all(|ready| ready))
    };
    Some(elsewhere.into_iter().filter(|id| is_ready(id)).cloned().collect())
}

fn is_ready_in(status: &HostStatus, id: &InstanceId, generation: u64) -> bool {
    let instance = status.instances.iter().find(|instance| instance.id == *id);
    status.observed_generation >= generation
        // One that an operator has paused is not waited for: that is how they want it.
        && instance.is_some_and(|i| i.paused || i.verdict() == Verdict::Ready)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shoal_core::status::{Health, InstanceStatus, State};
    use shoal_core::time::Timestamp;
    use shoal_proto::v1;

    use super::*;

    fn told(hosts: &[(&str, u64, &[&str])]) -> Told {
        let mut told = Told::default();
        for (host, generation, ids) in hosts {
            let instance =
                |id: &&str| v1::InstanceSpec { id: (*id).into(), ..v1::InstanceSpec::default() };
            let instances = ids.iter().map(instance).collect();
            let spec = HostSpec { generation: *generation, instances, ..HostSpec::default() };
            told.put(&host.parse().unwrap(), Some(&spec));
        }
        told
    }

    fn status(generation: u64, id: &str, health: Health) -> Arc<HostStatus> {
        let instance = InstanceStatus {
            id: id.parse().unwrap(),
            revision: 1,
            image: "a:1".parse().unwrap(),
            digest: [1; 32].into(),
            state: State::Running,
            health,
            since: Timestamp(0),
            current: true,
            leader: None,
            restarts: 0,
            uid_base: None,
            message: None,
            paused: false,
            drift: vec![],
            last_exit: None,
            went_back: None,
            addresses: vec![],
        };
        let instances = vec![instance];
        HostStatus { observed_generation: generation, instances, ..HostStatus::default() }.into()
    }

    /// What h0 is told where its instances come after `after`.
    fn ready(
        after: &[&str],
        told: &Told,
        online: &[(&str, Arc<HostStatus>)],
    ) -> Option<Vec<String>> {
        let statuses: BTreeMap<HostId, _> =
            online.iter().map(|(host, status)| (host.parse().unwrap(), status.clone())).collect();
        let after = after.iter().map(|id| id.parse().unwrap()).collect();
        let here = "h0".parse().unwrap();
        let ready = ready_elsewhere(&here, &after, told, |host| statuses.get(host).cloned())?;
        Some(ready.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_here_alone_is_the_agents_own_business() {
        let told = told(&[("h0", 1, &["a/db"]), ("h1", 1, &["a/x"])]);
        assert_eq!(ready(&[], &told, &[]), None);
        assert_eq!(ready(&["a/db"], &told, &[]), None);
        assert_eq!(ready(&["a/db", "a/x"], &told, &[]), Some(vec![]));
    }

    #[test]
    fn what_is_nowhere_is_not_waited_for() {
        assert_eq!(ready(&["a/gone"], &told(&[]), &[]), Some(vec!["a/gone".into()]));
    }

    #[test]
    fn readiness_is_proven_on_every_host_that_is_there_in_the_generation_told_last() {
        let told = told(&[("h0", 1, &["a/db"]), ("h1", 4, &["a/db"]), ("h2", 7, &["a/db"])]);
        let (healthy, starting) = (Health::Healthy, Health::Starting);
        let db = |generation, health| status(generation, "a/db", health);
        let yes = Some(vec!["a/db".to_owned()]);
        let no = Some(vec![]);
        let cases = [
            (vec![("h1", db(4, healthy)), ("h2", db(7, healthy))], yes.clone()),
            (vec![("h1", db(5, healthy)), ("h2", db(8, Health::None))], yes.clone()),
            // h2 is offline, and holds up no one; but someone has to be there.
            (vec![("h1", db(4, healthy))], yes),
            (vec![], no.clone()),
            (vec![("h1", db(4, healthy)), ("h2", db(7, starting))], no.clone()),
            (vec![("h1", db(4, healthy)), ("h2", db(6, healthy))], no.clone()),
            (vec![("h1", db(4, healthy)), ("h2", status(7, "a/x", healthy))], no),
        ];
        for (online, wanted) in cases {
            assert_eq!(ready(&["a/db"], &told, &online), wanted, "{online:?}");
        }
    }

    #[test]
    fn what_an_operator_has_paused_is_not_waited_for() {
        let told = told(&[("h1", 4, &["a/db"])]);
        let mut status = HostStatus::clone(&status(4, "a/db", Health::Starting));
        let online = |status: &HostStatus| [("h1", Arc::new(status.clone()))];
        assert_eq!(ready(&["a/db"], &told, &online(&status)), Some(vec![]));
        status.instances[0].paused = true;
        assert_eq!(ready(&["a/db"], &told, &online(&status)), Some(vec!["a/db".into()]));
    }

    #[test]
    fn places_follow_the_desired_states() {
        let mut told = told(&[("h1", 4, &["a/db", "a/x"])]);
        let db: InstanceId = "a/db".parse().unwrap();
        let places = |told: &Told| -> Vec<String> {
            told.places(&db).map(|(host, generation)| format!("{host} {generation}")).collect()
        };
        assert_eq!(places(&told), ["h1 4"]);
        let spec = HostSpec { generation: 5, ..HostSpec::default() };
        told.put(&"h1".parse().unwrap(), Some(&spec));
        assert_eq!(places(&told), [""; 0]);
        told.put(&"h1".parse().unwrap(), None);
        assert_eq!(places(&told), [""; 0]);
    }
}
