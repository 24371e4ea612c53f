//! What an infra file says besides its variables, instances and rollout: the keys of its top level.

use toml::de::DeValue;

use crate::agent_program::AgentVersion;
use crate::infra::{GoingBack, Infra};
use crate::label::HostMatch;
use crate::name::{BackupName, InfraVersion};

use super::hosts;
use super::report::Report;
use super::rollout::word;
use super::security::flag;
use super::table::{Item, Section, optional};

const VERSION: &str = "\"50.2.0\"";

const GOING_BACK: &[(&str, GoingBack)] =
    &[("image", GoingBack::Image), ("image-and-data", GoingBack::ImageAndData)];

/// What the top level says.
pub(super) struct Top {
    /// `None` where something in it is wrong.
    pub(super) infra: Option<Infra>,
    /// The hosts of the instances that name none; `Some(None)` where they are wrong.
    pub(super) hosts: Option<Option<HostMatch>>,
}

/// Whether the file is an infra file, or was meant to be one.
pub(super) fn is_meant(top: &Section<'_>) -> bool {
    top.has("infra") || !top.has("fleet") && top.has_near("infra", &["fleet", "instance"])
}

/// Reads the keys that a fleet file has not.
pub(super) fn read(top: &mut Section<'_>, report: &mut Report<'_>) -> Top {
    let (version, hosts) = (top.take("infra"), top.take("hosts"));
    let (agent, snapshot) = (top.take("agent"), top.take("snapshot"));
    let (going_back, restore) = (top.take("going-back"), top.take("restore"));
    if version.is_none() {
        top.lacks(&["infra"], &format!("infra = {VERSION}, the version"));
    }
    let help = "leave `fleet` out: this file has `infra`, so its fleet is always called `infra`";
    top.refuse("fleet", "an infra file has no `fleet`", help);
    let hosts = hosts.map(|item| hosts::read(&item, report));
    let version: Option<Option<InfraVersion>> = version.map(|item| item.parsed(VERSION, report));
    let agent = agent.map(|item| read_agent(&item, report));
    let copied = flag(snapshot.as_ref(), false, report);
    let back = going_back.as_ref().map(|item| word(item, GOING_BACK, report));
    let restore: Option<Option<BackupName>> =
        restore.map(|item| item.parsed("\"nightly\"", report));
    if let Some((item, Some(GoingBack::ImageAndData))) = going_back.as_ref().zip(back)
        && copied == Some(false)
    {
        needs_snapshot(item, snapshot.as_ref(), report);
    }
    let infra = || {
        Some(Infra {
            version: version??,
            snapshot: copied?,
            going_back: optional(back)?.unwrap_or_default(),
            restore: optional(restore)?,
            agent: optional(agent)?,
        })
    };
    Top { infra: infra(), hosts }
}

fn needs_snapshot(item: &Item<'_>, snapshot: Option<&Item<'_>>, report: &mut Report<'_>) {
    let help = match snapshot {
        Some(_) => "write snapshot = true, or going-back = \"image\"",
        None => "add snapshot = true, or write going-back = \"image\"",
    };
    let message = "`going-back`: data can only go back to a snapshot, and none is taken";
    report.error_help(&item.span(), message, help);
}

fn read_agent(item: &Item<'_>, report: &mut Report<'_>) -> Option<AgentVersion> {
    let text = match item.value() {
        // A version that was written without its quotes is a float, or no TOML at all.
        DeValue::Float(_) => None,
        _ => Some(item.text("\"0.3.0\"", report)?),
    };
    let version = text.filter(|text| is_semantic(text)).and_then(|text| text.parse().ok());
    if version.is_some() {
        return version;
    }
    let help = "write it as `shoal version` shows it: agent = \"0.3.0\"";
    report.error_help(&item.span(), "`agent` is not a version of three numbers", help);
    None
}

/// Whether `text` is a semantic version: `MAJOR.MINOR.PATCH`, `-PRE` and `+BUILD` after it.
fn is_semantic(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(t, b)| (t, Some(b)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(t, p)| (t, Some(p)));
    let digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|p| word(p) && (!digits(p) || number(p))))
        && build.is_none_or(|build| build.split('.').all(word))
        && text.len() + build.map_or(0, str::len) <= LONGEST
}

/// Bytes of a version of the agent.
const LONGEST: usize = 63;

#[cfg(test)]
mod tests {
    use super::is_semantic;

    #[test]
    fn versions_have_three_numbers() {
        for good in ["0.3.0", "1.2.3-rc.1", "1.2.3+b.01", "10.20.30-a-b.0+c", "1.0.0--"] {
            assert!(is_semantic(good), "{good}");
        }
        let long = format!("1.2.3-{}", "a".repeat(60));
        for bad in
            ["", "1", "1.2", "1.2.3.4", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", &long]
        {
            assert!(!is_semantic(bad), "{bad}");
        }
    }
}
