//! What a command ends with: its exit code, and what is said about a failure.
//!
//! The codes are documented in `docs/exit-codes.md` and stable: scripts depend on them. This is
//! the only place that maps errors to them.

use shoal_core::cause::chain;
use std::fmt::Write as _;

use crate::client::{RemoteError, ReplyError};
use crate::commands::agent::AgentError;
use crate::commands::chosen::ChoiceError;
use crate::commands::difference::CompareError;
use crate::commands::exec::NoTerminal;
use crate::commands::fleet_file::FleetFileError;
use crate::commands::host::HostError;
use crate::commands::host::drain::DrainError;
use crate::commands::host::upgrade::UpgradeError;
use crate::commands::import::ImportError;
use crate::commands::locked::LockError;
use crate::commands::logs::LogsError;
use crate::commands::man::ManError;
use crate::commands::push::PushError;
use crate::commands::run::RunError;
use crate::commands::secret::ValueError;
use crate::commands::signature::SignatureFailure;
use crate::commands::stage::StageError;
use crate::commands::watch::WatchError;
use crate::connect::ConnectError;
use crate::context::ContextError;
use crate::output::OutputError;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    /// `plan`, `fmt --check`: something would change. `status`: something is not as wanted.
    /// `image lint`: something costs.
    Differs,
    Usage,
    RolloutFailed,
    RolledBack,
    Partial,
    TimedOut,
    Conflict,
    Unreachable,
    Refused,
    NotFound,
    Precondition,
    HostOffline,
    Locked,
    Aborted,
    Held,
    Internal,
    ExecFailed,
    Interrupted,
    ReaderGone,
    /// The code of a command that `exec` ran.
    Command(u8),
}

impl Exit {
    /// Every ending with a code of its own, in the order of the codes.
    pub(crate) const ALL: [Self; 20] = [
        Self::Done,
        Self::Differs,
        Self::Usage,
        Self::RolloutFailed,
        Self::RolledBack,
        Self::Partial,
        Self::TimedOut,
        Self::Conflict,
        Self::Unreachable,
        Self::Refused,
        Self::NotFound,
        Self::Precondition,
        Self::HostOffline,
        Self::Locked,
        Self::Aborted,
        Self::Held,
        Self::Internal,
        Self::ExecFailed,
        Self::Interrupted,
        Self::ReaderGone,
    ];

    /// The process's exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Differs => 1,
            Self::Usage => 2,
            Self::RolloutFailed => 3,
            Self::RolledBack => 4,
            Self::Partial => 5,
            Self::TimedOut => 6,
            Self::Conflict => 7,
            Self::Unreachable => 8,
            Self::Refused => 9,
            Self::NotFound => 10,
            Self::Precondition => 11,
            Self::HostOffline => 12,
            Self::Locked => 13,
            Self::Aborted => 14,
            Self::Held => 15,
            Self::Internal => 70,
            Self::ExecFailed => 125,
            Self::Interrupted => 130,
            Self::ReaderGone => 141,
            Self::Command(code) => code,
        }
    }

    /// What it means, for the help.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done; plan: nothing would change; status: all is as wanted",
            Self::Differs => {
                "plan, fmt --check: something would change; status: not all is as wanted; image lint: something costs"
            }
            Self::Usage => "usage, or a bad input file",
            Self::RolloutFailed => "the rollout failed",
            Self::RolledBack => "the rollout was rolled back: its hosts are as before",
            Self::Partial => {
                "partial: a rollout's or staging's hosts that failed or are offline are named"
            }
            Self::TimedOut => "timed out",
            Self::Conflict => "conflict: superseded, or someone else was faster; plan again",
            Self::Unreachable => "the controller is unreachable",
            Self::Refused => "refused: not allowed, or a certificate is not accepted",
            Self::NotFound => "not found",
            Self::Precondition => "not possible as things stand, such as an image in use",
            Self::HostOffline => "a host is offline",
            Self::Locked => "the fleet is locked; says by whom",
            Self::Aborted => "the rollout was aborted, or is paused after a failure",
            Self::Held => "the rollout waits for someone, or for its window; nothing failed",
            Self::Internal => "an internal fault, or an answer that makes no sense",
            Self::ExecFailed => "exec itself failed; its other codes are the command's own",
            Self::Interrupted => "interrupted",
            Self::ReaderGone => "whoever read the output went away",
            Self::Command(_) => "the command's own code",
        }
    }
}

/// The table of codes, for `--help`.
pub(crate) fn help() -> String {
    let mut text = String::from("Exit codes:");
    for exit in Exit::ALL {
        // Writing to a string can't fail.
        let _ = write!(text, "\n  {:<4} {}", exit.code(), exit.meaning());
    }
    text
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Reply(#[from] ReplyError),
    #[error(transparent)]
    FleetFile(#[from] FleetFileError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Push(#[from] PushError),
    #[error(transparent)]
    Signature(#[from] SignatureFailure),
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Drain(#[from] DrainError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Man(#[from] ManError),
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error(transparent)]
    NoTerminal(#[from] NoTerminal),
    /// A failure of `exec` itself: whatever it was, no command's exit code came of it.
    #[error(transparent)]
    Exec(Box<Failure>),
}

impl Failure {
    /// The exit code that says so.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Context(_) | Self::FleetFile(_) | Self::Import(_) => Exit::Usage,
            Self::NoTerminal(_) => Exit::Usage,
            Self::Choice(_) => Exit::NotFound,
            Self::Logs(error) => logs(error),
            Self::Connect(error) => connect(error),
            Self::Remote(error) => remote(error),
            Self::Reply(_) => Exit::Internal,
            Self::Push(error) => push(error),
            Self::Signature(_) => Exit::Usage,
            Self::Compare(error) => compare(error),
            Self::Stage(error) => stage(error),
            Self::Watch(error) => watch(error),
            Self::Lock(LockError::Interrupted { .. }) => Exit::Interrupted,
            Self::Host(HostError::NoMatch { .. }) => Exit::NotFound,
            Self::Drain(error) => drain(error),
            Self::Agent(_) => Exit::Usage,
            Self::Upgrade(error) => upgrade(error),
            Self::Run(error) => run(error),
            Self::Value(ValueError::Interrupted) => Exit::Interrupted,
            Self::Value(_) => Exit::Usage,
            Self::Man(_) => Exit::Precondition,
            Self::Output(error) if error.reader_is_gone() => Exit::ReaderGone,
            Self::Output(_) => Exit::Internal,
            Self::Exec(inner) => match inner.exit() {
                Exit::ReaderGone => Exit::ReaderGone,
                _ => Exit::ExecFailed,
            },
        }
    }

    /// All that is said about it, on standard error; `None` where no one is left to read it.
    pub(crate) fn report(&self) -> Option<String> {
        match self {
            Self::Output(error) if error.reader_is_gone() => None,
            Self::Exec(inner) => inner.report(),
            Self::FleetFile(FleetFileError::Problems(problems)) => Some(problems.to_string()),
            _ => Some(format!("error: {}", chain(self))),
        }
    }
}

fn connect(error: &ConnectError) -> Exit {
    match error {
        ConnectError::Address { .. }
        | ConnectError::Roots { .. }
        | ConnectError::Identity { .. } => Exit::Usage,
        ConnectError::Resolve { .. }
        | ConnectError::Refused { .. }
        | ConnectError::TimedOut { .. }
        | ConnectError::Io { .. }
        | ConnectError::Handshake { .. }
        | ConnectError::NotAController { .. } => Exit::Unreachable,
        ConnectError::Certificate { .. } => Exit::Refused,
    }
}

fn logs(error: &LogsError) -> Exit {
    match error {
        LogsError::Backwards | LogsError::TooMany(_) => Exit::Usage,
        LogsError::Nothing => Exit::NotFound,
        LogsError::Partly { exit, .. } => *exit,
    }
}

/// What a refusal comes to.
pub(crate) fn remote(error: &RemoteError) -> Exit {
    match error {
        RemoteError::Lost { .. } | RemoteError::Away { .. } => Exit::Unreachable,
        RemoteError::Certificate { .. } => Exit::Refused,
        RemoteError::Slow { .. } => Exit::TimedOut,
        refused if refused.is_locked() => Exit::Locked,
        RemoteError::Refused { code, .. } => status(*code),
    }
}

/// The controller's refusals.
fn status(code: tonic::Code) -> Exit {
    match code {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Exit::Usage,
        tonic::Code::NotFound => Exit::NotFound,
        tonic::Code::AlreadyExists | tonic::Code::Aborted => Exit::Conflict,
        tonic::Code::FailedPrecondition | tonic::Code::ResourceExhausted => Exit::Precondition,
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Exit::Refused,
        // Where the controller itself is not there, that is no refusal.
        tonic::Code::Unavailable => Exit::HostOffline,
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Exit::TimedOut,
        tonic::Code::Ok
        | tonic::Code::Unknown
        | tonic::Code::Internal
        | tonic::Code::DataLoss
        | tonic::Code::Unimplemented => Exit::Internal,
    }
}

fn push(error: &PushError) -> Exit {
    match error {
        PushError::Image(_) | PushError::Digest(_) | PushError::Read { .. } => Exit::Usage,
        PushError::Make(_) => Exit::Internal,
        PushError::Temporary(_) => Exit::Precondition,
        PushError::Interrupted { .. } => Exit::Interrupted,
    }
}

fn compare(error: &CompareError) -> Exit {
    match error {
        CompareError::Mixed { .. } | CompareError::NoFile { .. } | CompareError::Image(_) => {
            Exit::Usage
        }
        CompareError::Make(_) => Exit::Internal,
        CompareError::Temporary(_) => Exit::Precondition,
        CompareError::Interrupted => Exit::Interrupted,
    }
}

fn stage(error: &StageError) -> Exit {
    match error {
        StageError::Partial { .. } => Exit::Partial,
        StageError::TimedOut { .. } => Exit::TimedOut,
        StageError::NotStaged { .. } => Exit::NotFound,
        StageError::Interrupted { .. } => Exit::Interrupted,
    }
}

fn watch(error: &WatchError) -> Exit {
    match error {
        WatchError::Failed { .. } => Exit::RolloutFailed,
        WatchError::RolledBack { .. } => Exit::RolledBack,
        WatchError::Partial { .. } => Exit::Partial,
        WatchError::TimedOut { .. } | WatchError::StillRunning { .. } => Exit::TimedOut,
        WatchError::Superseded { .. } => Exit::Conflict,
        WatchError::Aborted { .. } | WatchError::PausedByFailure { .. } => Exit::Aborted,
        WatchError::Held { .. } => Exit::Held,
        WatchError::Interrupted { .. } => Exit::Interrupted,
    }
}

fn drain(error: &DrainError) -> Exit {
    match error {
        DrainError::Left { .. } => Exit::Partial,
        DrainError::TimedOut { .. } => Exit::TimedOut,
        DrainError::Interrupted { .. } => Exit::Interrupted,
    }
}

fn upgrade(error: &UpgradeError) -> Exit {
    match error {
        UpgradeError::OtherProcessor { .. } | UpgradeError::Unknown { .. } => Exit::Precondition,
        UpgradeError::NoHosts => Exit::NotFound,
        UpgradeError::Rejected { none: true, .. } => Exit::RolledBack,
        UpgradeError::Rejected { .. } => Exit::Partial,
        UpgradeError::TimedOut { .. } => Exit::TimedOut,
        UpgradeError::Offline { .. } => Exit::HostOffline,
        UpgradeError::TooOld { .. } => Exit::Precondition,
        UpgradeError::Interrupted => Exit::Interrupted,
    }
}

fn run(error: &RunError) -> Exit {
    match error {
        RunError::Failed { .. } => Exit::RolloutFailed,
        RunError::TimedOut { .. } => Exit::TimedOut,
        RunError::Offline { .. } => Exit::HostOffline,
        RunError::NoTarget { .. } => Exit::NotFound,
    }
}

#[cfg(test)]
mod tests;
