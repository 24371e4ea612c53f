//! `[Exec]`: what runs, as whom, with which rights.

use crate::spec::{Capability, EnvName};

use super::draft::{Draft, Start};
use super::ini::Assignment;
use super::settings::{Settings, flag};
use super::unit::countable;

const EXEC: &str = "Exec";

/// Bytes of a word or a variable that a fleet file takes.
const LONGEST_WORD: usize = 64 << 10;

/// Keys that a fleet file has nothing for, and what to do instead.
const LEFT: &[(&str, &str)] = &[
    (
        "User",
        "a command runs as root of the instance; let it change its user itself, such as \
         [\"/usr/bin/setpriv\", \"--reuid=1000\", \"--regid=1000\", \"--clear-groups\", …]",
    ),
    (
        "WorkingDirectory",
        "a command starts in /; let it change its directory itself, such as \
         [\"/usr/bin/env\", \"-C\", \"/srv/app\", …]",
    ),
    ("PivotRoot", "make the image of that directory, so that it is the root"),
    ("AmbientCapability", "let a unit in the image ask for it (AmbientCapabilities=)"),
    ("KillSignal", "an instance is told to power off as its init system expects it"),
    (
        "Personality",
        "programs run as on the host; let a unit in the image ask for it (Personality=)",
    ),
    ("MachineID", "each instance gets a machine ID of its own, which stays"),
    ("Hostname", "inside, the host's name is that of the machine, FLEET-INSTANCE"),
    (
        "ResolvConf",
        "systemd-nspawn's default holds; to have a file of your own, declare it under files",
    ),
    ("Timezone", "systemd-nspawn's default holds, the time zone of the host"),
    ("SuppressSync", "what is written reaches the disk as programs ask for it"),
    ("OOMScoreAdjust", "give it limits.memory, so that it is the one that runs out of memory"),
    ("CPUAffinity", "give it limits.cpu, which bounds how much it uses but not where"),
];

const LIMITS: &[&str] = &[
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "AS",
    "NPROC",
    "MEMLOCK",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// Carries the section over.
pub(super) fn carry(settings: &mut Settings, draft: &mut Draft) {
    start(settings, draft);
    environment(settings, draft);
    capabilities(settings, draft);
    privileges(settings, draft);
    private_users(settings, draft);
    system_calls(settings, draft);
    limits(settings, draft);
    link_journal(settings);
    if let Some((true, _)) = settings.flag(EXEC, "Ephemeral") {
        draft.keeps_nothing = true;
    }
    for (key, why) in LEFT {
        settings.leave(EXEC, key, why);
    }
}

/// `systemd-nspawn@.service` boots, and drops parameters, where the file does not say what to run.
fn start(settings: &mut Settings, draft: &mut Draft) {
    let boot = settings.flag(EXEC, "Boot");
    let second = settings.flag(EXEC, "ProcessTwo").filter(|(second, _)| *second);
    let parameters = settings.words(EXEC, "Parameters", true);
    let first = parameters.first().map(|(_, assignment)| assignment.clone());
    let words: Vec<String> = parameters.into_iter().map(|(word, _)| word).collect();
    let words = if words.iter().all(|word| passable(word)) { words } else { Vec::new() };
    match (&boot, second) {
        (Some((true, _)), Some((_, assignment))) => {
            settings.note(&assignment, "it contradicts Boot=yes, and was left out");
        }
        (Some((false, assignment)), None) => {
            command(settings, draft, words, assignment);
            let why = "the command is process 2, below a small init that ends it in order and reaps \
                       what it leaves behind; as process 1 it can't be run";
            settings.note(assignment, why);
            return notify_ready(settings, false);
        }
        (_, Some((_, assignment))) => {
            command(settings, draft, words, &assignment);
            return notify_ready(settings, false);
        }
        (_, None) => {}
    }
    if let Some(assignment) = first {
        let why = match boot {
            Some(_) => "arguments can't be given to an init system; put the setting into the image",
            None => {
                "systemd-nspawn ignores it without Boot= or ProcessTwo=, and so the image boots"
            }
        };
        settings.note(&assignment, why);
    }
    notify_ready(settings, true);
}

/// Whether a process can be given the word, and a fleet file can have it.
fn passable(word: &str) -> bool {
    !word.contains('\0') && word.len() <= LONGEST_WORD
}

fn command(settings: &mut Settings, draft: &mut Draft, words: Vec<String>, at: &Assignment) {
    let usable = words.first().is_some_and(|word| !word.is_empty());
    if !usable {
        settings.note(at, "no Parameters= say what to run, so it is a shell; write the program");
    }
    draft.start = Start::Command(if usable { words } else { vec!["/bin/sh".to_owned()] });
    let why = "a command has fewer capabilities than systemd-nspawn gives it; where it misses one, \
               name it in security.capabilities-add";
    settings.general("Capability", why);
}

fn notify_ready(settings: &mut Settings, boots: bool) {
    let Some((ready, assignment)) = settings.flag(EXEC, "NotifyReady") else { return };
    match (boots, ready) {
        (true, false) => {
            settings.note(&assignment, "a booted instance counts as started when its init says so");
        }
        (false, true) => {
            let why = "a command counts as started at once; prove by a health check that it works";
            settings.note(&assignment, why);
        }
        _ => {}
    }
}

fn environment(settings: &mut Settings, draft: &mut Draft) {
    for (word, assignment) in settings.words(EXEC, "Environment", true) {
        let pair = word.split_once('=').map(|(name, value)| (name.parse::<EnvName>(), value));
        match pair {
            Some((Ok(name), value)) if passable(value) => {
                draft.env.insert(name, value.to_owned());
            }
            Some((Ok(name), _)) => {
                settings.note(&assignment, format!("{name} is longer than {LONGEST_WORD} bytes"));
            }
            Some((Err(error), _)) => settings.note(&assignment, error.to_string()),
            None => settings.note(&assignment, format!("{word:?} sets nothing, since it has no =")),
        }
    }
}

fn capabilities(settings: &mut Settings, draft: &mut Draft) {
    for (word, assignment) in settings.words(EXEC, "Capability", false) {
        match capability(&word) {
            _ if word == "all" => {
                let why = "all capabilities make root inside as good as root outside; write those \
                           that are needed into security.capabilities-add";
                settings.note(&assignment, why);
            }
            Some(capability) => {
                let why = format!(
                    "the policy of the hosts must allow it: capabilities = [\"{capability}\"] in \
                     /etc/shoal/policy.toml"
                );
                settings.note(&assignment, why);
                draft.security.capabilities_add.insert(capability);
            }
            None => settings.note(&assignment, format!("{word:?} is no capability")),
        }
    }
    for (word, assignment) in settings.words(EXEC, "DropCapability", false) {
        let dropped = &mut draft.security.capabilities_drop;
        match capability(&word) {
            _ if word == "all" => dropped.extend(Capability::all().filter_map(|c| c.parse().ok())),
            Some(capability) => {
                dropped.insert(capability);
            }
            None => settings.note(&assignment, format!("{word:?} is no capability")),
        }
    }
    // As systemd-nspawn has it: what is dropped by name is dropped.
    let security = &mut draft.security;
    security.capabilities_add.retain(|c| !security.capabilities_drop.contains(c));
}

fn capability(word: &str) -> Option<Capability> {
    let word = word.to_ascii_uppercase();
    let name = if word.starts_with("CAP_") { word } else { format!("CAP_{word}") };
    name.parse().ok()
}

fn privileges(settings: &mut Settings, draft: &mut Draft) {
    match settings.flag(EXEC, "NoNewPrivileges") {
        Some((no, _)) => draft.security.new_privileges = !no,
        None => settings.general(
            "NoNewPrivileges",
            "inside, no program may gain rights that its caller has not; if sudo, su or ping must, \
             add new-privileges = true to [instance.main.security]",
        ),
    }
}

fn private_users(settings: &mut Settings, draft: &mut Draft) {
    let Some(assignment) = settings.last(EXEC, "PrivateUsers") else { return };
    let value = assignment.value.as_str();
    if value == "identity" || value == "0" || flag(value) == Some(false) {
        draft.security.private_users = false;
        let why = "root inside is root outside then; the policy of the hosts must allow it \
                   (user-namespace = \"optional\" in /etc/shoal/policy.toml). Try first whether it runs without";
        settings.note(&assignment, why);
    } else if value.starts_with(|c: char| c.is_ascii_digit()) && flag(value).is_none() {
        settings.note(&assignment, "Shoal chooses the user numbers of an instance itself");
    }
}

fn system_calls(settings: &mut Settings, draft: &mut Draft) {
    for (word, assignment) in settings.words(EXEC, "SystemCallFilter", false) {
        // A ~ at the start of a value holds for all its words.
        if assignment.value.starts_with('~') {
            let why = format!("{word}: single system calls can't be denied, only allowed");
            settings.note(&assignment, why);
            continue;
        }
        match word.parse() {
            Ok(call) => {
                let why = format!(
                    "the policy of the hosts must allow it: system-calls = [\"{call}\"] in \
                     /etc/shoal/policy.toml"
                );
                settings.note(&assignment, why);
                draft.security.system_calls_allow.insert(call);
            }
            Err(error) => settings.note(&assignment, format!("{error}")),
        }
    }
}

fn limits(settings: &mut Settings, draft: &mut Draft) {
    if let Some(assignment) = settings.last(EXEC, "LimitNOFILE") {
        let (soft, hard) = assignment.value.split_once(':').unwrap_or((&assignment.value, ""));
        let number = if hard.is_empty() { soft } else { hard };
        match number.parse::<u64>() {
            Ok(files) if countable(files) => {
                draft.limits.nofile = Some(files);
                if !hard.is_empty() && hard != soft {
                    settings
                        .note(&assignment, "limits.nofile is one number; the hard limit was taken");
                }
            }
            _ => settings.note(&assignment, "it is no number; write one as limits.nofile"),
        }
    }
    for limit in LIMITS {
        let why = if *limit == "NPROC" {
            "limits.tasks bounds how many processes and threads an instance has in all"
        } else {
            "let a unit in the image ask for it, by the same name"
        };
        settings.leave(EXEC, &format!("Limit{limit}"), why);
    }
}

fn link_journal(settings: &mut Settings) {
    let Some(assignment) = settings.last(EXEC, "LinkJournal") else { return };
    if flag(&assignment.value) != Some(false) {
        let why = "the journal of an instance is not linked to the host's; `shoal logs` shows it";
        settings.note(&assignment, why);
    }
}
