//! What the values of an argument are, and so what completes them.
//!
//! Way in: [`equip`]. The type that an argument is parsed into says it; where the type is a plain
//! text or a path, `#[arg(add = Values::…)]` does. So a new argument of a known type is completed
//! without a word about it.

use std::any::TypeId;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::builder::{ArgExt, ValueHint};
use clap::{Arg, Command};
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _,
};
use shoal_core::image::ImageRef;
use shoal_core::label::Selector;
use shoal_core::name::{FleetName, HostName, InstanceId};
use shoal_core::secret::SecretName;

use super::Source;
use super::candidates;
use crate::target::{LabelEdit, Scope, Target};

/// What the values of an argument are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    Hosts,
    Fleets,
    /// `FLEET/INSTANCE[@HOST]`.
    Instances,
    /// `FLEET`, or as an instance.
    Scopes,
    /// An image by one of its names or its digest.
    Images,
    /// `NAME:TAG`.
    References,
    Secrets,
    Selectors,
    /// `KEY=VALUE`.
    Labels,
    /// `KEY=VALUE` or `KEY-`.
    LabelEdits,
    Contexts,
    FleetFiles,
    Files,
    Directories,
    /// Nothing that is known beforehand: a number, a new name, a text.
    New,
}

impl ArgExt for Values {}

impl Values {
    /// What the values of `arg` are.
    pub(crate) fn of(arg: &Arg) -> Self {
        match arg.get::<Self>() {
            Some(said) => *said,
            None if arg.get_action().takes_values() => Self::of_type(arg),
            None => Self::New,
        }
    }

    fn of_type(arg: &Arg) -> Self {
        let by_type = [
            (TypeId::of::<HostName>(), Self::Hosts),
            (TypeId::of::<FleetName>(), Self::Fleets),
            (TypeId::of::<InstanceId>(), Self::Instances),
            (TypeId::of::<Target>(), Self::Instances),
            (TypeId::of::<Scope>(), Self::Scopes),
            (TypeId::of::<ImageRef>(), Self::References),
            (TypeId::of::<SecretName>(), Self::Secrets),
            (TypeId::of::<Selector>(), Self::Selectors),
            (TypeId::of::<(String, String)>(), Self::Labels),
            (TypeId::of::<LabelEdit>(), Self::LabelEdits),
            (TypeId::of::<PathBuf>(), Self::of_path(arg)),
        ];
        let found = arg.get_value_parser().type_id();
        by_type.into_iter().find(|(id, _)| found == *id).map_or(Self::New, |(_, values)| values)
    }

    fn of_path(arg: &Arg) -> Self {
        match arg.get_value_hint() {
            ValueHint::DirPath => Self::Directories,
            _ => Self::Files,
        }
    }

    /// Which files these are, if they are files.
    fn files(self) -> Option<Files> {
        match self {
            Self::FleetFiles => Some(Files::Fleet),
            Self::Files => Some(Files::Any),
            Self::Directories => Some(Files::Directories),
            _ => None,
        }
    }

    /// Those that begin with what was typed.
    fn candidates(self, typed: &str, source: &dyn Source) -> Vec<CompletionCandidate> {
        match self {
            Self::Hosts => candidates::hosts(&source.hosts(), typed),
            Self::Fleets => candidates::fleets(&source.fleets(), typed),
            Self::Instances => candidates::instances(&source.instances(), typed),
            Self::Scopes if typed.contains('/') => Self::Instances.candidates(typed, source),
            Self::Scopes => {
                let fleets = Self::Fleets.candidates(typed, source).into_iter();
                fleets.chain(Self::Instances.candidates(typed, source)).collect()
            }
            Self::Images => candidates::images(&source.images(), typed),
            Self::References => candidates::references(&source.images(), typed),
            Self::Secrets => candidates::secrets(&source.secrets(), typed),
            Self::Selectors => candidates::selectors(&source.hosts(), typed),
            Self::Labels => candidates::labels(&source.hosts(), typed),
            Self::LabelEdits => candidates::label_edits(&source.hosts(), typed),
            Self::Contexts => candidates::contexts(&source.contexts(), typed),
            Self::FleetFiles | Self::Files | Self::Directories | Self::New => Vec::new(),
        }
    }
}

/// Which files are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    Any,
    Fleet,
    Directories,
}

impl Files {
    fn candidates(self, typed: &OsStr) -> Vec<CompletionCandidate> {
        match self {
            Self::Any => PathCompleter::any().complete(typed),
            Self::Fleet => PathCompleter::any().filter(may_be_fleet_file).complete(typed),
            Self::Directories => PathCompleter::dir().complete(typed),
        }
    }
}

fn may_be_fleet_file(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|end| end == "toml" || end == "json")
}

/// Where it is written down that files were asked for, so that shells can treat them as such.
pub(crate) type FilesAsked = Arc<OnceLock<Files>>;

/// Gives each argument of the command and of those below it what completes its values.
pub(crate) fn equip(command: Command, source: &Arc<dyn Source>, asked: &FilesAsked) -> Command {
    command
        .mut_args(|arg| equip_argument(arg, source, asked))
        .mut_subcommands(|sub| equip(sub, source, asked))
}

fn equip_argument(arg: Arg, source: &Arc<dyn Source>, asked: &FilesAsked) -> Arg {
    let values = Values::of(&arg);
    if values == Values::New {
        return arg;
    }
    let (source, asked) = (Arc::clone(source), Arc::clone(asked));
    arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
        // An option is being typed where a value could stand as well: no one need be asked.
        if typed.as_encoded_bytes().starts_with(b"-") {
            return Vec::new();
        }
        match (values.files(), typed.to_str()) {
            (Some(files), _) => {
                let _ = asked.set(files);
                files.candidates(typed)
            }
            (None, Some(typed)) => values.candidates(typed, source.as_ref()),
            (None, None) => Vec::new(),
        }
    }))
}
