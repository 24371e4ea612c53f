//! Which instances a command line means: some by name, all on some hosts, or both.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::label::Selector;
use shoal_core::name::InstanceId;
use shoal_proto::convert::{Invalid, parse};
use shoal_proto::v1::{Instance, ListInstancesRequest, ListInstancesResponse};

use crate::client::{Client, ReplyError};
use crate::exit::Failure;
use crate::target::Scope;

/// Names in a message at most.
const MOST_NAMES: usize = 10;

/// Why nothing is meant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChoiceError {
    #[error("there is no instance {scope}; {others}")]
    NoInstance { scope: String, others: String },
    #[error("{of} does not run on host {host}; it runs on {on}")]
    NotOnHost { of: String, host: String, on: String },
}

/// Some instances: those of any of the scopes, or all where there is none, on hosts that match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) scopes: Vec<Scope>,
    pub(crate) selector: Option<Selector>,
}

impl Choice {
    /// The one fleet that all of it is of, or none.
    fn fleet(&self) -> String {
        let fleets: BTreeSet<&str> = self.scopes.iter().map(|scope| scope.fleet.as_str()).collect();
        match fleets.first() {
            Some(fleet) if fleets.len() == 1 => (*fleet).to_owned(),
            _ => String::new(),
        }
    }

    /// What to ask the controller for; its answer may have more, which [`Self::keep`] takes out.
    pub(crate) fn request(&self) -> ListInstancesRequest {
        let selector = self.selector.clone().map(String::from).unwrap_or_default();
        ListInstancesRequest { fleet: self.fleet(), selector }
    }

    /// Those of the answer that are meant, in its order.
    pub(crate) fn keep(&self, mut instances: Vec<Instance>) -> Result<Vec<Instance>, ReplyError> {
        let ids: Result<Vec<InstanceId>, Invalid> = instances.iter().map(id).collect();
        let mut ids = ids.map_err(ReplyError::about("instances"))?.into_iter();
        instances.retain(|instance| {
            let is_meant = |id: InstanceId| self.means(&id, &instance.host);
            ids.next().is_some_and(is_meant)
        });
        Ok(instances)
    }

    fn means(&self, id: &InstanceId, host: &str) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|scope| scope.has(id, host))
    }

    /// Asks for them. A name that nothing has is an error, unless a selector may have left it out.
    pub(crate) async fn list(&self, client: &Client) -> Result<Vec<Instance>, Failure> {
        let fleets: BTreeSet<&str> = self.scopes.iter().map(|scope| scope.fleet.as_str()).collect();
        let whole = self.request();
        let mut found = Vec::new();
        if fleets.len() < 2 {
            found = ask(client, whole).await?.instances;
        } else {
            // One by one, since only so the controller says which of them there is not.
            for fleet in fleets {
                let part = ListInstancesRequest { fleet: fleet.to_owned(), ..whole.clone() };
                found.extend(ask(client, part).await?.instances);
            }
        }
        if self.selector.is_none() {
            for scope in &self.scopes {
                check(scope, &found).map_err(ReplyError::about("instances"))??;
            }
        }
        Ok(self.keep(found)?)
    }
}

/// Everything that the controller lists.
pub(crate) async fn ask(
    client: &Client,
    request: ListInstancesRequest,
) -> Result<ListInstancesResponse, Failure> {
    let reply = client.instances().list(client.ask(request)).await;
    Ok(reply.map_err(client.refused("list instances"))?.into_inner())
}

/// Which instance it is.
pub(crate) fn id(instance: &Instance) -> Result<InstanceId, Invalid> {
    let wanted = instance.wanted.as_ref().map(|wanted| &wanted.id);
    let observed = instance.observed.as_ref().map(|observed| &observed.id);
    parse("id", wanted.or(observed).ok_or(Invalid::Missing("wanted"))?)
}

/// Whether a scope has any of them.
fn check(scope: &Scope, instances: &[Instance]) -> Result<Result<(), ChoiceError>, Invalid> {
    let mut hosts: BTreeMap<InstanceId, Vec<&str>> = BTreeMap::new();
    for instance in instances {
        hosts.entry(id(instance)?).or_default().push(&instance.host);
    }
    hosts.retain(|id, _| id.fleet == scope.fleet);
    let of_name = |id: &InstanceId| scope.instance.as_ref().is_none_or(|name| id.instance == *name);
    let on: BTreeSet<&str> =
        hosts.iter().filter(|(id, _)| of_name(id)).flat_map(|(_, on)| on.iter().copied()).collect();
    if on.is_empty() && scope.instance.is_some() {
        let (scope, others) = (scope.instance_text(), others(scope, hosts.keys()));
        return Ok(Err(ChoiceError::NoInstance { scope, others }));
    }
    match &scope.host {
        Some(host) if !on.is_empty() && !on.contains(host.as_str()) => {
            let (of, host, on) = (scope.instance_text(), host.to_string(), named(on));
            Ok(Err(ChoiceError::NotOnHost { of, host, on }))
        }
        _ => Ok(Ok(())),
    }
}

fn others<'a>(scope: &Scope, ids: impl Iterator<Item = &'a InstanceId>) -> String {
    let names: Vec<&str> = ids.map(|id| id.instance.as_str()).collect();
    if names.is_empty() {
        return format!("no instance of fleet {} runs or should", scope.fleet);
    }
    format!("fleet {} has {}", scope.fleet, named(names))
}

fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match names.len() {
        0..=MOST_NAMES => names.join(", "),
        many => format!("{} and {} more", names[..MOST_NAMES].join(", "), many - MOST_NAMES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    fn choice(scopes: &[&str]) -> Choice {
        let scopes = scopes.iter().map(|scope| scope.parse().unwrap()).collect();
        Choice { scopes, selector: None }
    }

    fn hosts(choice: &Choice) -> Vec<String> {
        let kept = choice.keep(samples::instances()).unwrap();
        kept.into_iter().map(|instance| instance.host).collect()
    }

    #[test]
    fn scopes_pick_what_they_name() {
        assert_eq!(hosts(&choice(&[])).len(), 8);
        assert_eq!(hosts(&choice(&["shop"])).len(), 8);
        assert_eq!(hosts(&choice(&["shop/main@h2", "shop/main@h3", "shop/db"])), ["h2", "h3"]);
        assert!(hosts(&choice(&["mail"])).is_empty());
        assert_eq!(choice(&["shop/main", "shop"]).request().fleet, "shop");
        assert_eq!(choice(&["shop/main", "mail"]).request().fleet, "");
    }

    #[test]
    fn names_that_are_not_there_are_told_with_those_that_are() {
        let says = |scope: &str, instances: &[Instance]| {
            check(&scope.parse().unwrap(), instances).unwrap().map_err(|error| error.to_string())
        };
        let all = samples::instances();
        for good in ["shop", "shop/main", "shop/main@h8"] {
            assert_eq!(says(good, &all), Ok(()), "{good}");
        }
        let wrong = says("shop/mian", &all).unwrap_err();
        assert_eq!(wrong, "there is no instance shop/mian; fleet shop has main");
        let wrong = says("shop/main@h9", &all[..2]).unwrap_err();
        assert_eq!(wrong, "shop/main does not run on host h9; it runs on h1, h2");
        let wrong = says("shop/main", &[]).unwrap_err();
        assert_eq!(
            wrong,
            "there is no instance shop/main; no instance of fleet shop runs or should"
        );
    }
}
