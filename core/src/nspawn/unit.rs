//! Drop-ins of the container's unit, `systemd-nspawn@NAME.service.d/*.conf`: its limits.

use crate::spec::Memory;

use super::draft::Draft;
use super::ini::Assignment;
use super::settings::Settings;
use super::{Note, Text};

/// What a fleet file takes, in bytes and in percent.
const LEAST_MEMORY: u64 = 1 << 20;
const MOST_CPU: u32 = 1_000_000;

/// Carries over what the drop-ins say. A later one counts more.
pub(super) fn carry(drop_ins: &[Text<'_>], draft: &mut Draft) -> Vec<Note> {
    let mut notes = Vec::new();
    for drop_in in drop_ins {
        let mut settings = Settings::new(*drop_in);
        memory(&mut settings, draft);
        cpu(&mut settings, draft);
        tasks(&mut settings, draft);
        let (rest, mut said) = settings.into_rest();
        said.extend(rest.iter().filter_map(|assignment| left(drop_in.name, assignment)));
        said.sort_by_key(|note| note.line);
        notes.extend(said);
    }
    notes
}

/// What becomes of a limit.
enum Limit<T> {
    Is(T),
    Unknown(&'static str),
}

/// Takes a key of which the last assignment counts; an empty one takes the limit back.
fn limit<T>(
    settings: &mut Settings,
    key: &str,
    place: &mut Option<T>,
    read: impl Fn(&str) -> Limit<T>,
) {
    let Some(assignment) = settings.all("Service", key).pop() else { return };
    match assignment.value.as_str() {
        "" | "infinity" => *place = None,
        value => match read(value) {
            Limit::Is(limit) => *place = Some(limit),
            Limit::Unknown(why) => settings.note(&assignment, why),
        },
    }
}

fn memory(settings: &mut Settings, draft: &mut Draft) {
    let read = |value: &str| match bytes(value) {
        Some(bytes) if bytes < LEAST_MEMORY => {
            Limit::Unknown("nothing can run in so little; write a size as limits.memory")
        }
        Some(bytes) => Limit::Is(Memory(bytes)),
        None if value.ends_with('%') => Limit::Unknown(
            "a share of the host's memory differs from host to host; write a size as limits.memory",
        ),
        None => Limit::Unknown("it is no size; write one as limits.memory"),
    };
    limit(settings, "MemoryMax", &mut draft.limits.memory, read);
}

/// A size as systemd writes it: `1.5G`, base 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits);
    let (fraction, unit) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let shift = match unit.trim().trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let unit = 1_u128 << shift;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let total =
        whole.parse::<u128>().ok()?.checked_mul(unit)?.checked_add(fraction * unit / scale)?;
    u64::try_from(total).ok()
}

fn cpu(settings: &mut Settings, draft: &mut Draft) {
    let read = |value: &str| {
        let percent = value.strip_suffix('%').map(|number| number.split('.').next().unwrap_or(""));
        match percent.and_then(|number| number.parse::<u32>().ok()) {
            Some(percent) if (1..=MOST_CPU).contains(&percent) => Limit::Is(percent),
            _ => Limit::Unknown(
                "it is no whole percentage; write one as limits.cpu, such as \"150%\"",
            ),
        }
    };
    limit(settings, "CPUQuota", &mut draft.limits.cpu, read);
}

fn tasks(settings: &mut Settings, draft: &mut Draft) {
    let read = |value: &str| match value.parse::<u64>() {
        Ok(tasks) if countable(tasks) => Limit::Is(tasks),
        _ => Limit::Unknown("it is no number; write one as limits.tasks"),
    };
    limit(settings, "TasksMax", &mut draft.limits.tasks, read);
}

/// Whether a fleet file can have the number.
pub(super) fn countable(number: u64) -> bool {
    number > 0 && i64::try_from(number).is_ok()
}

/// What is said of a key that was not carried over.
fn left(file: &str, assignment: &Assignment) -> Option<Note> {
    let Assignment { section, key, value, line } = assignment;
    let why = match (section.as_str(), key.as_str()) {
        // Every instance starts at boot.
        ("Install", _) => return None,
        (section, key) if section.starts_with("X-") || key.starts_with("X-") => return None,
        ("Unit", "After" | "Requires" | "Wants" | "BindsTo" | "Requisite" | "PartOf") => {
            "order among instances is after = [\"NAME\"]; an instance does not wait for other units"
        }
        ("Service", "ExecStart") if value.is_empty() => return None,
        ("Service", "ExecStart") => {
            "its arguments are not read: write them into the .nspawn file, and import it again"
        }
        ("Service", key) if key.starts_with("Exec") => {
            "nothing of the host's runs with an instance; let a unit in the image do it"
        }
        ("Service", "DeviceAllow" | "DevicePolicy") => {
            "devices of the host can't be given to an instance"
        }
        ("Service", "Environment" | "EnvironmentFile") => {
            "it is systemd-nspawn's own environment; what programs inside should see is env"
        }
        _ => "the units of instances are Shoal's, and this has no key in a fleet file",
    };
    let (file, key) = (Some(file.to_owned()), key.clone());
    Some(Note { file, line: Some(*line), key, why: why.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_systemd_does() {
        for (text, wanted) in
            [("512M", 512 << 20), ("1.5G", 3 << 29), ("7", 7), ("1K", 1024), ("0.5K", 512)]
        {
            assert_eq!(bytes(text), Some(wanted), "{text}");
        }
        for bad in ["", "M", "50%", "1.G5", "x", "99999999999T"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
