//! Which hook an instance's data needs before the instance is started, and what is remembered of
//! that. Pure: the host keeps a [`Past`] for each machine, and does what [`Past::next`] says.
//!
//! Invariants, each with a test: data counts as set up for an image, and of the infra's instances for
//! an infra version, only once its hook has ended well; a hook that failed is not run again before something else is wanted; one that was cut off
//! is run again in the mode that it was begun in.
//!
//! Deliberately absent: any way to take data back, and any to bring it from a backup: whoever does
//! says so with [`Past::restored`].

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::image::{Digest, ImageRef, PinnedImage};
use crate::name::InfraVersion;
use crate::spec::{Hooks, InstanceConfig};
use crate::time::Timestamp;

/// Characters of a hook's last line that are kept.
const LONGEST_LINE: usize = 300;

/// Why a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The data is empty.
    New,
    /// The data was set up for another image, or for one that is not known; or, of an instance of
    /// the infra, under another infra version.
    Update,
    /// The data came from a backup.
    Restore,
}

impl Mode {
    /// As `SHOAL_MODE` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Update => "update",
            Self::Restore => "restore",
        }
    }

    /// The name of its hook in the fleet file.
    #[must_use]
    pub fn hook(self) -> &'static str {
        match self {
            Self::New => "init",
            Self::Update => "migrate",
            Self::Restore => "restore",
        }
    }

    fn words(self, hooks: &Hooks) -> &[String] {
        match self {
            Self::New => &hooks.init,
            Self::Update => &hooks.migrate,
            Self::Restore => &hooks.restore,
        }
    }
}

/// What is remembered of a machine's data and its hooks. Outlives the container, as the data does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Past {
    /// The image that the data was last set up for; `None` where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<SetUpFor>,
    /// Whether the data was empty when a hook was first begun, and none has set it up since:
    /// whatever that hook left behind.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// Whether the data came from a backup, and no hook has set it up since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// The hook that runs, or that was cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// How the last one failed, until something else was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The last one that ended well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ran: Option<Ran>,
}

/// An image that data was set up for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SetUpFor {
    /// Its name then.
    pub reference: ImageRef,
    /// Its file.
    pub digest: Digest,
    /// The infra version that it was set up under: of an instance of the infra, on a host that has
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra: Option<InfraVersion>,
}

impl SetUpFor {
    /// Whether data that is set up for this is so for `image` under `infra`, too.
    fn is(&self, image: &PinnedImage, infra: Option<&InfraVersion>) -> bool {
        self.digest == image.digest && (infra.is_none() || self.infra.as_ref() == infra)
    }
}

/// A hook that was begun and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Running {
    /// Which.
    pub mode: Mode,
    /// Since when.
    pub since: Timestamp,
}

/// A hook that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Failure {
    /// Which.
    pub mode: Mode,
    /// What was to be started, by a digest of its configuration and of how often a restart was
    /// asked for.
    pub attempt: Digest,
    /// How it ended, for people: `exit code 3`.
    pub how: String,
    /// The last line that it printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_line: Option<String>,
    /// When.
    pub at: Timestamp,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hook {} failed: {}", self.mode.hook(), self.how)?;
        match &self.last_line {
            Some(line) => write!(f, ": {line}"),
            None => Ok(()),
        }
    }
}

/// A hook that ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ran {
    /// Which.
    pub mode: Mode,
    /// The image that the data was set up for before, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<ImageRef>,
    /// The image that it is set up for now.
    pub to: ImageRef,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = Duration::from_millis(self.took_ms);
        write!(f, "hook {} has run in {took:.1?}: ", self.mode.hook())?;
        match &self.from {
            Some(from) => write!(f, "the data was set up for {from} and is now for {}", self.to),
            None => write!(f, "the data is set up for {}", self.to),
        }
    }
}

/// What comes before a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Start,
    /// Nothing but to remember this.
    Note(Past),
    /// A hook.
    Run(Run),
    /// It is not to be started: its hook has failed, and would be run for the same once more.
    Refused(Failure),
}

/// A hook to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which.
    pub mode: Mode,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// The image that the data was set up for, where that is known.
    pub from: Option<ImageRef>,
    /// The image that is to be started.
    pub to: PinnedImage,
    /// The infra version that the data was set up under, where that is known.
    pub infra_from: Option<InfraVersion>,
    /// The infra version that it is started under, where that matters to it.
    pub infra_to: Option<InfraVersion>,
    /// What is to be started, as [`Failure::attempt`] has it.
    pub attempt: Digest,
}

impl Run {
    /// What it finds in its environment, besides the instance's own.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("SHOAL_MODE", self.mode.as_str().to_owned()),
            ("SHOAL_FROM", self.from.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("SHOAL_TO", self.to.reference.to_string()),
        ];
        if let Some(to) = &self.infra_to {
            let from = self.infra_from.as_ref().map(ToString::to_string).unwrap_or_default();
            environment.extend([("SHOAL_INFRA_FROM", from), ("SHOAL_INFRA_TO", to.to_string())]);
        }
        environment
    }
}

/// What is about to be started.
#[derive(Debug, Clone, Copy)]
pub struct Starting<'a> {
    /// What runs.
    pub config: &'a InstanceConfig,
    /// The infra version that it is started under; of instances of the infra only.
    pub infra: Option<&'a InfraVersion>,
    /// Stands for all of it, and for how often a restart was asked for.
    pub attempt: Digest,
    /// Whether there is anything in its volumes.
    pub has_data: bool,
}

impl Past {
    /// What comes before it is started.
    #[must_use]
    pub fn next(&self, starting: Starting<'_>) -> Next {
        let Starting { config, infra, attempt, has_data } = starting;
        if let Some(failure) = self.refusal(attempt) {
            return Next::Refused(failure.clone());
        }
        let mode = match &self.image {
            _ if self.restored => Mode::Restore,
            Some(image) if image.is(&config.image, infra) => return self.unchanged(),
            Some(_) => Mode::Update,
            None if self.fresh || !has_data => Mode::New,
            None => Mode::Update,
        };
        let words = mode.words(&config.settings.hooks);
        if words.is_empty() {
            return Next::Note(self.set_up_for(&config.image, infra));
        }
        let before = self.image.as_ref();
        Next::Run(Run {
            mode,
            words: words.to_vec(),
            from: before.map(|image| image.reference.clone()),
            to: config.image.clone(),
            infra_from: before.and_then(|image| image.infra.clone()),
            infra_to: infra.cloned(),
            attempt,
        })
    }

    /// With data that came from a backup: the hook `restore` is to set it up.
    #[must_use]
    pub fn brought_back(&self) -> Self {
        Self { restored: true, fresh: false, running: None, failure: None, ..self.clone() }
    }

    /// How the hook failed that `attempt` would run once more.
    #[must_use]
    pub fn refusal(&self, attempt: Digest) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| failure.attempt == attempt)
    }

    /// The data is set up for what is wanted. What was tried in between is over.
    fn unchanged(&self) -> Next {
        let settled = Self { running: None, failure: None, ..self.clone() };
        if settled == *self { Next::Start } else { Next::Note(settled) }
    }

    fn set_up_for(&self, image: &PinnedImage, infra: Option<&InfraVersion>) -> Self {
        let PinnedImage { reference, digest, .. } = image;
        let (reference, infra) = (reference.clone(), infra.cloned());
        let image = SetUpFor { reference, digest: *digest, infra };
        Self { image: Some(image), ran: self.ran.clone(), ..Self::default() }
    }

    /// With a hook begun. To be remembered before it is.
    #[must_use]
    pub fn begun(&self, run: &Run, now: Timestamp) -> Self {
        let running = Some(Running { mode: run.mode, since: now });
        let fresh = run.mode == Mode::New;
        Self { running, fresh, failure: None, ..self.clone() }
    }

    /// With that hook ended well.
    #[must_use]
    pub fn succeeded(&self, run: &Run, now: Timestamp) -> Self {
        let took = self.running.as_ref().map(|running| now.since(running.since));
        let ran = Ran {
            mode: run.mode,
            from: run.from.clone(),
            to: run.to.reference.clone(),
            at: now,
            took_ms: took.and_then(|took| u64::try_from(took.as_millis()).ok()).unwrap_or(0),
        };
        Self { ran: Some(ran), ..self.set_up_for(&run.to, run.infra_to.as_ref()) }
    }

    /// With that hook failed: `how` it ended, and the last line that it printed.
    #[must_use]
    pub fn failed(&self, run: &Run, how: &str, last_line: Option<&str>, now: Timestamp) -> Self {
        let (mode, attempt, how) = (run.mode, run.attempt, how.to_owned());
        let last_line = last_line.map(shown).filter(|line| !line.is_empty());
        let failure = Failure { mode, attempt, how, last_line, at: now };
        Self { running: None, failure: Some(failure), ..self.clone() }
    }

    /// With its failure forgotten: the next start runs the hook again.
    #[must_use]
    pub fn forgiven(&self) -> Self {
        Self { failure: None, ..self.clone() }
    }
}

/// A line that comes from inside an instance, as it may be shown to people.
fn shown(line: &str) -> String {
    let plain = line.trim().chars().filter(|c| !c.is_control());
    let mut shown: String = plain.clone().take(LONGEST_LINE).collect();
    if plain.count() > LONGEST_LINE {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests_support::instance;

    const NOW: Timestamp = Timestamp(5000);

    fn digest(byte: u8) -> Digest {
        Digest::from([byte; 32])
    }

    /// What stands for the configuration that is tried.
    fn attempt() -> Digest {
        digest(99)
    }

    fn config(image: u8, hooks: &[&str]) -> InstanceConfig {
        let mut config = instance("shop/main", image).config;
        let words = |name: &str| match hooks.contains(&name) {
            true => vec![format!("/bin/{name}")],
            false => vec![],
        };
        config.settings.hooks =
            Hooks { init: words("init"), migrate: words("migrate"), restore: words("restore") };
        config
    }

    const BOTH: &[&str] = &["init", "migrate"];

    fn set_up_for(image: u8) -> Past {
        let PinnedImage { reference, digest, .. } = config(image, &[]).image;
        Past { image: Some(SetUpFor { reference, digest, infra: None }), ..Past::default() }
    }

    fn next(past: &Past, config: &InstanceConfig, attempt: Digest, has_data: bool) -> Next {
        past.next(Starting { config, infra: None, attempt, has_data })
    }

    fn run(past: &Past, image: u8, hooks: &[&str], has_data: bool) -> Run {
        match next(past, &config(image, hooks), attempt(), has_data) {
            Next::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_situation_has_its_hook() {
        let known = |image| set_up_for(image);
        let fresh = Past { fresh: true, ..Past::default() };
        // What is remembered, whether there is data, the hooks; the hook that is run, if any.
        let restored = |past: Past| past.brought_back();
        let cases: [(Past, bool, &[&str], Option<&str>); 15] = [
            (Past::default(), false, BOTH, Some("init")),
            (Past::default(), true, BOTH, Some("migrate")),
            (Past::default(), false, &["migrate"], None),
            (Past::default(), true, &["init"], None),
            (fresh.clone(), true, BOTH, Some("init")),
            (fresh, true, &["migrate"], None),
            (known(1), true, BOTH, Some("migrate")),
            (known(1), false, BOTH, Some("migrate")),
            (known(1), true, &["init"], None),
            (known(2), true, BOTH, None),
            (known(2), false, BOTH, None),
            (known(1), true, &["restore"], None),
            (restored(Past::default()), true, &["init", "migrate", "restore"], Some("restore")),
            (restored(known(2)), true, &["restore"], Some("restore")),
            (restored(known(1)), true, BOTH, None),
        ];
        for (past, has_data, hooks, wanted) in cases {
            let next = next(&past, &config(2, hooks), attempt(), has_data);
            let shown = format!("{past:?} {has_data} {hooks:?}: {next:?}");
            match (&next, wanted) {
                (Next::Run(run), Some(hook)) => {
                    assert_eq!(run.mode.hook(), hook, "{shown}");
                    assert_eq!(run.words, [format!("/bin/{hook}")], "{shown}");
                }
                (Next::Start, None) => assert_eq!(past, known(2), "{shown}"),
                (Next::Note(noted), None) => assert_eq!(*noted, known(2), "{shown}"),
                _ => panic!("{shown}"),
            }
        }
    }

    #[test]
    fn a_hook_is_told_where_it_comes_from() {
        let shown = |(name, value): (&str, String)| format!("{name}={value}");
        let env = |run: Run| run.environment().into_iter().map(shown).collect::<Vec<_>>();
        let to = config(2, BOTH).image.reference;
        let from = config(1, BOTH).image.reference;
        assert_eq!(
            env(run(&set_up_for(1), 2, BOTH, true)),
            [
                "SHOAL_MODE=update".to_owned(),
                format!("SHOAL_FROM={from}"),
                format!("SHOAL_TO={to}"),
            ]
        );
        let new = env(run(&Past::default(), 2, BOTH, false));
        assert_eq!(new[..2], ["SHOAL_MODE=new", "SHOAL_FROM="]);
        let unknown = env(run(&Past::default(), 2, BOTH, true));
        assert_eq!(unknown[..2], ["SHOAL_MODE=update", "SHOAL_FROM="]);
    }

    #[test]
    fn a_hook_that_ended_well_is_not_run_again_and_going_back_is_an_update() {
        let first = run(&Past::default(), 1, BOTH, false);
        let past = Past::default().begun(&first, NOW).succeeded(&first, Timestamp(7500));
        assert_eq!(next(&past, &config(1, BOTH), attempt(), true), Next::Start);
        let ran = past.ran.as_ref().unwrap().to_string();
        let image = config(1, BOTH).image.reference;
        assert_eq!(ran, format!("hook init has run in 2.5s: the data is set up for {image}"));
        let update = run(&past, 2, BOTH, true);
        let past = past.begun(&update, NOW).succeeded(&update, NOW);
        let back = run(&past, 1, BOTH, true);
        assert_eq!((back.mode, back.from), (Mode::Update, Some(config(2, BOTH).image.reference)));
    }

    #[test]
    fn a_hook_that_failed_waits_for_something_else() {
        let past = set_up_for(1);
        let update = run(&past, 2, BOTH, true);
        let line = format!("\u{1b}[31mno room\u{7}{}", "x".repeat(400));
        let past = past.begun(&update, NOW).failed(&update, "exit code 3", Some(&line), NOW);
        let failure = past.failure.clone().unwrap();
        let shown = failure.to_string();
        assert!(shown.starts_with("hook migrate failed: exit code 3: [31mno roomx"), "{shown}");
        assert!(shown.ends_with("x…") && shown.len() < 400, "{shown}");
        assert_eq!(next(&past, &config(2, BOTH), attempt(), true), Next::Refused(failure));
        // Another configuration, or a restart that someone asked for.
        let again = next(&past, &config(2, BOTH), digest(98), true);
        assert!(matches!(&again, Next::Run(run) if run.from == update.from), "{again:?}");
        let forgiven = next(&past.forgiven(), &config(2, BOTH), attempt(), true);
        assert!(matches!(forgiven, Next::Run(_)));
        // The image that the data is set up for needs nothing, and what comes after it is new.
        let Next::Note(back) = next(&past, &config(1, BOTH), digest(1), true) else { panic!() };
        assert_eq!(back, set_up_for(1));
        assert!(matches!(next(&back, &config(2, BOTH), attempt(), true), Next::Run(_)));
    }

    #[test]
    fn what_was_cut_off_or_failed_on_empty_data_begins_there_again() {
        let init = run(&Past::default(), 1, BOTH, false);
        let cut_off = Past::default().begun(&init, NOW);
        assert_eq!(run(&cut_off, 1, BOTH, true), init);
        let failed = cut_off.failed(&init, "exit code 1", None, NOW);
        assert_eq!(failed.failure.as_ref().unwrap().to_string(), "hook init failed: exit code 1");
        let Next::Run(again) = next(&failed, &config(2, BOTH), digest(1), true) else { panic!() };
        assert_eq!((again.mode, again.from), (Mode::New, None));
        let cut_off = set_up_for(1).begun(&run(&set_up_for(1), 2, BOTH, true), NOW);
        assert_eq!(run(&cut_off, 2, BOTH, true).mode, Mode::Update);
        let settled = next(&cut_off, &config(1, BOTH), attempt(), true);
        assert_eq!(settled, Next::Note(set_up_for(1)));
    }

    #[test]
    fn another_infra_version_is_an_update_though_the_image_is_the_same() {
        let (config, version) = (config(1, BOTH), |v: &str| v.parse::<InfraVersion>().unwrap());
        let (one, two) = (version("50.1"), version("50.2"));
        let under = |past: &Past, infra: &InfraVersion| {
            let infra = Some(infra);
            past.next(Starting { config: &config, infra, attempt: attempt(), has_data: true })
        };
        let run = |past: &Past, infra| match under(past, infra) {
            Next::Run(run) => run,
            other => panic!("{other:?}"),
        };
        // Data of before there were infra versions, and then of another.
        let first = run(&set_up_for(1), &one);
        assert_eq!((first.mode, &first.infra_from), (Mode::Update, &None));
        let past = set_up_for(1).begun(&first, NOW).succeeded(&first, NOW);
        assert_eq!(under(&past, &one), Next::Start);
        let second = run(&past, &two);
        assert_eq!(second.mode, Mode::Update);
        let env = second.environment();
        assert_eq!(
            env[3..],
            [("SHOAL_INFRA_FROM", "50.1".into()), ("SHOAL_INFRA_TO", "50.2".into())]
        );
        // One that fails leaves it as it was.
        let failed = past.begun(&second, NOW).failed(&second, "exit code 1", None, NOW);
        assert_eq!(failed.image, past.image);
        // To an app, infra versions are nothing.
        assert_eq!(next(&past, &config, attempt(), true), Next::Start);
    }

    #[test]
    fn data_from_a_backup_stays_that_until_its_hook_has_ended_well() {
        let hooks = &["init", "migrate", "restore"];
        let past = Past::default().brought_back();
        let restore = run(&past, 1, hooks, true);
        let cut_off = past.begun(&restore, NOW);
        assert_eq!(run(&cut_off, 1, hooks, true).mode, Mode::Restore);
        let failed = cut_off.failed(&restore, "exit code 1", None, NOW);
        let Next::Run(again) = next(&failed, &config(2, hooks), digest(1), true) else { panic!() };
        assert_eq!(again.mode, Mode::Restore);
        let done = cut_off.succeeded(&restore, NOW);
        assert_eq!(next(&done, &config(1, hooks), attempt(), true), Next::Start);
        assert_eq!(done.image, set_up_for(1).image);
    }
}
