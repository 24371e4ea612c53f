//! On which hosts a fleet's containers are made afresh.
//!
//! What is asked for becomes a part of the revision ([`super::revision::Revision::recreate`]); the
//! rollout's driver puts it into the desired states of those hosts, batch by batch.

use std::collections::BTreeSet;

use shoal_core::host::Host;
use shoal_core::label::Selector;
use shoal_core::name::{FleetName, HostId};
use shoal_proto::v1;

use super::revision::Placed;
use crate::refusal::Refusal;

/// Hosts that are named before the rest is only counted.
const NAMED: usize = 10;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recreate {
    /// Which hosts; all of the fleet's where there is none.
    selector: Option<Selector>,
}

impl TryFrom<v1::Recreate> for Recreate {
    type Error = Refusal;

    fn try_from(wire: v1::Recreate) -> Result<Self, Refusal> {
        let v1::Recreate { selector } = wire;
        let parse = |text: &str| text.parse::<Selector>();
        let selector = Some(selector).filter(|text| !text.is_empty()).as_deref().map(parse);
        let selector = selector.transpose();
        let selector = selector.map_err(|error| Refusal::Invalid(format!("selector {error}")))?;
        Ok(Self { selector })
    }
}

impl Recreate {
    /// The hosts of `fleet` that are meant, where it is `placed` so.
    ///
    /// # Errors
    /// None of them is, for people.
    pub(super) fn chosen(
        &self,
        fleet: &FleetName,
        hosts: &[Host],
        placed: &Placed,
    ) -> Result<BTreeSet<HostId>, String> {
        let is_there = |host: &&Host| placed.get(&host.id).is_some_and(|there| !there.is_empty());
        let there: Vec<&Host> = hosts.iter().filter(is_there).collect();
        let meant = |host: &&&Host| self.selector.as_ref().is_none_or(|s| s.matches(&host.labels));
        let chosen: BTreeSet<HostId> =
            there.iter().filter(meant).map(|host| host.id.clone()).collect();
        match &self.selector {
            Some(selector) if chosen.is_empty() => Err(none_matches(fleet, selector, &there)),
            None if chosen.is_empty() => {
                Err(format!("fleet {fleet} is on no host, so there is nothing to make afresh"))
            }
            _ => Ok(chosen),
        }
    }
}

fn none_matches(fleet: &FleetName, selector: &Selector, hosts: &[&Host]) -> String {
    if hosts.is_empty() {
        return format!("no host matches {selector}: fleet {fleet} is on none");
    }
    let shown = |host: &&Host| {
        let labels: Vec<String> = host.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let labels = if labels.is_empty() { "no labels".into() } else { labels.join(",") };
        format!("{} ({labels})", host.name)
    };
    let mut named: Vec<String> = hosts.iter().take(NAMED).map(shown).collect();
    if hosts.len() > NAMED {
        named.push(format!("and {} more", hosts.len() - NAMED));
    }
    format!(
        "none of the hosts of fleet {fleet} matches {selector}; they are {}. Select some of them \
         by their labels, or all of them without -l",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fleets_api::tests_support::{pinned, settings};
    use shoal_core::spec::InstanceConfig;

    fn host(name: &str, role: Option<&str>) -> Host {
        let label = |role: &str| ("role".parse().unwrap(), role.parse().unwrap());
        Host {
            id: format!("id-{name}").parse().unwrap(),
            name: name.parse().unwrap(),
            labels: role.map(label).into_iter().collect(),
            facts: None,
            cordon: None,
        }
    }

    fn chosen(selector: &str, hosts: &[Host], on: &[&str]) -> Result<Vec<String>, String> {
        let config = InstanceConfig { image: pinned("app:1", 1), settings: settings() };
        let there: BTreeMap<_, _> = [("main".parse().unwrap(), config)].into();
        let configs = |host: &Host| match on.contains(&host.name.as_str()) {
            true => there.clone(),
            // One that the fleet leaves.
            false => BTreeMap::new(),
        };
        let placed = hosts.iter().map(|host| (host.id.clone(), configs(host))).collect();
        let asked = Recreate::try_from(v1::Recreate { selector: selector.into() }).unwrap();
        let chosen = asked.chosen(&"shop".parse().unwrap(), hosts, &placed)?;
        Ok(chosen.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn those_of_the_fleets_hosts_are_chosen_that_match() {
        let hosts = [host("h1", Some("log")), host("h2", Some("web")), host("h3", None)];
        let all = ["h1", "h2", "h3"];
        assert_eq!(chosen("", &hosts, &["h1", "h3"]).unwrap(), ["id-h1", "id-h3"]);
        assert_eq!(chosen("role=log", &hosts, &all).unwrap(), ["id-h1"]);
        assert_eq!(
            chosen("role=lgo", &hosts, &["h2", "h3"]).unwrap_err(),
            "none of the hosts of fleet shop matches role=lgo; they are h2 (role=web), h3 (no \
             labels). Select some of them by their labels, or all of them without -l"
        );
        let elsewhere = chosen("role=log", &hosts, &["h2"]).unwrap_err();
        assert!(elsewhere.contains("they are h2 (role=web)."), "{elsewhere}");
        let none = "no host matches role=log: fleet shop is on none";
        assert_eq!(chosen("role=log", &hosts, &[]).unwrap_err(), none);
        assert!(chosen("", &hosts, &[]).unwrap_err().contains("on no host"));
        let many: Vec<Host> = (0..13).map(|n| host(&format!("h{n}"), None)).collect();
        let names: Vec<&str> = many.iter().map(|host| host.name.as_str()).collect();
        let told = chosen("role=log", &many, &names).unwrap_err();
        assert!(told.contains(", and 3 more. "), "{told}");
    }

    #[test]
    fn a_selector_that_is_none_is_refused() {
        let wire = v1::Recreate { selector: "role=".into() };
        assert!(matches!(Recreate::try_from(wire), Err(Refusal::Invalid(_))));
    }
}
