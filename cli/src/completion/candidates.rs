//! From what is known and what was typed to what it could become. Pure.

use std::collections::{BTreeMap, BTreeSet};

use clap_complete::engine::CompletionCandidate;

use super::known::{Context, Fleet, Host, Image, Instance, Secret};
use crate::output::text::count;

/// How much of a digest is shown and completed; enough to be the only one.
const DIGEST_DIGITS: usize = 12;

type Candidates = Vec<CompletionCandidate>;

fn candidate(value: impl Into<String>, help: impl Into<String>) -> CompletionCandidate {
    CompletionCandidate::new(value.into()).help(Some(help.into().into()))
}

pub(super) fn hosts(hosts: &[Host], typed: &str) -> Candidates {
    let found = hosts.iter().filter(|host| host.name.starts_with(typed));
    found.map(|host| candidate(&host.name, host_help(host))).collect()
}

/// `online, role=web, zone=a`.
fn host_help(host: &Host) -> String {
    let labels = host.labels.iter().map(|(key, value)| format!(", {key}={value}"));
    let state = if host.online { "online" } else { "offline" };
    labels.fold(state.to_owned(), |help, label| help + &label)
}

pub(super) fn fleets(fleets: &[Fleet], typed: &str) -> Candidates {
    let found = fleets.iter().filter(|fleet| fleet.name.starts_with(typed));
    found.map(|fleet| candidate(&fleet.name, format!("revision {}", fleet.revision))).collect()
}

/// Instances, and the hosts of one where several run it and it is the only one meant: so its name
/// is completed first, and what may follow is shown then.
pub(super) fn instances(instances: &[Instance], typed: &str) -> Candidates {
    let mut by_id: BTreeMap<&str, Vec<&Instance>> = BTreeMap::new();
    for instance in instances {
        by_id.entry(&instance.id).or_default().push(instance);
    }
    if let Some((id, _)) = typed.split_once('@') {
        let on = by_id.get(id).map(Vec::as_slice).unwrap_or_default();
        return with_hosts(on, typed);
    }
    by_id.retain(|id, _| id.starts_with(typed));
    let is_only = by_id.len() == 1;
    let found = by_id.iter().flat_map(|(id, on)| {
        let hosts = if on.len() > 1 && (is_only || *id == typed) {
            with_hosts(on, typed)
        } else {
            Vec::new()
        };
        std::iter::once(candidate(*id, instance_help(on))).chain(hosts)
    });
    found.collect()
}

fn with_hosts(on: &[&Instance], typed: &str) -> Candidates {
    let named = on.iter().map(|on| (format!("{}@{}", on.id, on.host), &on.state));
    let found = named.filter(|(name, _)| name.starts_with(typed));
    found.map(|(name, state)| candidate(name, state)).collect()
}

/// `running on h1`, `on 3 hosts`.
fn instance_help(on: &[&Instance]) -> String {
    match on {
        [one] => format!("{} on {}", one.state, one.host),
        several => format!("on {}", count(several.len(), "host")),
    }
}

pub(super) fn references(images: &[Image], typed: &str) -> Candidates {
    let named = images
        .iter()
        .flat_map(|image| image.references.iter().map(move |reference| (reference, image)));
    let found = named.filter(|(reference, _)| reference.starts_with(typed));
    found.map(|(reference, image)| candidate(reference, image_help(image))).collect()
}

/// By name; by digest where no name begins so, and where an image has no name.
pub(super) fn images(images: &[Image], typed: &str) -> Candidates {
    let mut found = references(images, typed);
    for image in images {
        let short = short(image);
        if short.starts_with(typed) {
            let has_name = !image.references.is_empty();
            let help = if has_name { image.references.join(", ") } else { "no name".to_owned() };
            found.push(candidate(short, help).hide(has_name));
        }
    }
    found
}

fn short(image: &Image) -> &str {
    image.digest.get(..DIGEST_DIGITS).unwrap_or(&image.digest)
}

/// `3fa94b0c11de, used by 2 instances`.
fn image_help(image: &Image) -> String {
    format!("{}, used by {}", short(image), count(image.uses, "instance"))
}

pub(super) fn secrets(secrets: &[Secret], typed: &str) -> Candidates {
    let found = secrets.iter().filter(|secret| secret.name.starts_with(typed));
    found.map(|secret| candidate(&secret.name, secret_help(secret))).collect()
}

/// `version 3, used by 2 instances`.
fn secret_help(secret: &Secret) -> String {
    format!("version {}, used by {}", secret.version, count(secret.uses, "instance"))
}

pub(super) fn labels(hosts: &[Host], typed: &str) -> Candidates {
    let found = numbered_labels(hosts).into_iter().filter(|(label, _)| label.starts_with(typed));
    found.map(|(label, number)| candidate(label, count(number, "host"))).collect()
}

/// Labels to set, and `KEY-` to remove one.
pub(super) fn label_edits(hosts: &[Host], typed: &str) -> Candidates {
    let mut found = labels(hosts, typed);
    for key in keys(hosts) {
        let removal = format!("{key}-");
        if removal.starts_with(typed) {
            found.push(candidate(removal, format!("remove {key}")));
        }
    }
    found
}

/// The last term of a selector.
pub(super) fn selectors(hosts: &[Host], typed: &str) -> Candidates {
    let (before, term) = typed.split_at(typed.rfind(',').map_or(0, |comma| comma + 1));
    let found = match (term.strip_prefix('!'), term.contains("!=")) {
        (Some(_), _) => lacking(hosts),
        (None, true) => differing(hosts),
        (None, false) => numbered_labels(hosts).into_iter().collect(),
    };
    let found = found.into_iter().filter(|(text, _)| text.starts_with(term));
    found.map(|(text, number)| candidate(text, count(number, "host")).add_prefix(before)).collect()
}

/// Each label, with how many hosts have it.
fn numbered_labels(hosts: &[Host]) -> BTreeMap<String, usize> {
    let mut numbered = BTreeMap::new();
    for (key, value) in hosts.iter().flat_map(|host| &host.labels) {
        *numbered.entry(format!("{key}={value}")).or_default() += 1;
    }
    numbered
}

fn keys(hosts: &[Host]) -> BTreeSet<&str> {
    hosts.iter().flat_map(|host| host.labels.keys()).map(String::as_str).collect()
}

/// `!KEY`, with how many hosts that is.
fn lacking(hosts: &[Host]) -> Vec<(String, usize)> {
    let without = |key: &str| hosts.iter().filter(|host| !host.labels.contains_key(key)).count();
    keys(hosts).into_iter().map(|key| (format!("!{key}"), without(key))).collect()
}

/// `KEY!=VALUE`, with how many hosts that is.
fn differing(hosts: &[Host]) -> Vec<(String, usize)> {
    let differing = |(label, number): (String, usize)| {
        (label.replacen('=', "!=", 1), hosts.len().saturating_sub(number))
    };
    numbered_labels(hosts).into_iter().map(differing).collect()
}

pub(super) fn contexts(contexts: &[Context], typed: &str) -> Candidates {
    let found = contexts.iter().filter(|context| context.name.starts_with(typed));
    let help = |context: &Context| {
        let current = if context.current { ", the current one" } else { "" };
        format!("{}{current}", context.controller)
    };
    found.map(|context| candidate(&context.name, help(context))).collect()
}

#[cfg(test)]
mod tests;
