//! `shoal rollout …`.

use std::time::Duration;

use clap::{Args, Subcommand};
use shoal_core::name::FleetName;
use shoal_core::rollout::LONGEST_HOLD;

use crate::target::parse_duration;

/// What a reason may have at most, in bytes.
const LONGEST_REASON: usize = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// List rollouts, newest first
    #[command(alias = "ls")]
    List {
        /// Of one fleet [default: all]
        fleet: Option<FleetName>,
    },
    /// Show a rollout: its hosts by batch, what holds it, how it goes about it
    Show(ShowArgs),
    /// Follow a rollout until it ends, also while it is held; exits as `apply --wait` does
    Watch(ShowArgs),
    /// Begin no further batch; what is under way on a host goes on
    ///
    /// The rollout's time does not run meanwhile. Where nobody says `resume` until the pause is
    /// over, the rollout ends as it is.
    Pause(PauseArgs),
    /// Go on after a pause; after a failure, try the hosts that failed once more
    Resume(GoOnArgs),
    /// End a rollout and leave every host as it is
    Abort(SayArgs),
    /// Go on with the next batch, where the fleet file asks for a look before it (`promote`)
    Promote(GoOnArgs),
    /// Go back to the revision before, or to another
    ///
    /// A rollout that is under way goes back, batch by batch: images and configuration, never data
    /// (but for an infra file with `going-back = "image-and-data"`).
    /// Where all has ended, a new revision is made that says what the older one said, and is rolled
    /// out like any other.
    Undo(UndoArgs),
    /// Keep others from changing a fleet for a time
    ///
    /// Whoever holds the lock can still apply. A lock ends by itself.
    Lock(LockArgs),
    /// Give a lock back; it is no error where there is none
    Unlock(UnlockArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The fleet
    pub(crate) fleet: FleetName,
    /// The revision [default: the newest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) revision: Option<u64>,
}

/// What an operator says, and why.
#[derive(Debug, Args)]
pub(crate) struct SayArgs {
    /// The fleet
    pub(crate) fleet: FleetName,
    /// Why, in a line; others see it, and it is kept in the audit log
    #[arg(long, value_name = "TEXT", value_parser = parse_reason, default_value = "")]
    #[arg(hide_default_value = true)]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) say: SayArgs,
    /// For how long at most, up to 24h; then the rollout ends as it is
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_hold, default_value = "24h")]
    pub(crate) hold: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct GoOnArgs {
    #[command(flatten)]
    pub(crate) say: SayArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait until the rollout ends, or is held for someone; exits as `apply --wait` does
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// The fleet
    pub(crate) fleet: FleetName,
    /// The revision to go back to [default: the last before the newest that proved healthy]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to_revision: Option<u64>,
    /// Of the infra: put the data back, too, as it was before the version that the hosts have.
    /// What is there now is kept aside on each host
    #[arg(long)]
    pub(crate) data: bool,
    /// Wait until every host is back, or the rollout ended otherwise
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long going back may take
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    pub(crate) timeout: Duration,
    /// Why, or on whose behalf; kept with the revision
    #[arg(long, env = "SHOAL_SOURCE", hide_env_values = true, value_name = "TEXT")]
    pub(crate) source: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// The fleet
    pub(crate) fleet: FleetName,
    /// Why, in a line; those that are kept out see it
    #[arg(long, value_name = "TEXT", value_parser = parse_given_reason)]
    pub(crate) reason: String,
    /// For how long at most, up to 24h
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_hold, default_value = "1h")]
    pub(crate) hold: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    /// The fleet
    pub(crate) fleet: FleetName,
    /// Also where the lock is someone else's
    #[arg(long)]
    pub(crate) force: bool,
}

/// Why a text is no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write one line of at most {LONGEST_REASON} bytes")]
pub(crate) struct InvalidReason;

fn parse_reason(text: &str) -> Result<String, InvalidReason> {
    let text = text.trim();
    let is_plain = text.len() <= LONGEST_REASON && !text.chars().any(char::is_control);
    if is_plain { Ok(text.to_owned()) } else { Err(InvalidReason) }
}

fn parse_given_reason(text: &str) -> Result<String, InvalidReason> {
    parse_reason(text).and_then(|text| if text.is_empty() { Err(InvalidReason) } else { Ok(text) })
}

/// Why a text does not say for how long a fleet may be held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write a duration such as 30m or 2h, of at most 24h")]
pub(crate) struct InvalidHold;

fn parse_hold(text: &str) -> Result<Duration, InvalidHold> {
    parse_duration(text).ok().filter(|hold| *hold <= LONGEST_HOLD).ok_or(InvalidHold)
}
