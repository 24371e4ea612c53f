//! Images that hosts were asked to fetch ahead.

use std::time::Duration;

use serde::Serialize;
use shoal_core::time::Timestamp;
use shoal_proto::convert::{Invalid, digest};
use shoal_proto::v1::{self, StagingState};

use super::audit::short_identity;
use crate::output::size::{bytes, percent};
use crate::output::table::{Cell, Table, Tone};
use crate::output::text::printable;
use crate::output::time::{At, span};

#[derive(Debug, Serialize)]
pub(crate) struct StagedView {
    pub(crate) staged: Vec<StagedHost>,
}

/// How far one host is with one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StagedHost {
    pub(crate) image: String,
    digest: String,
    pub(crate) host: String,
    pub(crate) state: State,
    /// Why it failed; may be empty.
    pub(crate) reason: String,
    pub(crate) size_bytes: u64,
    pub(crate) received_bytes: u64,
    /// Bytes that were sent for those.
    pub(crate) sent_bytes: u64,
    /// Bytes that need not be sent.
    saved_bytes: u64,
    /// `controller`, or the host that it comes from; may be empty.
    source: String,
    by: String,
    /// Absent where the image is in use there.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<At>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<At>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_seconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Its agent has not begun.
    Waiting,
    Going,
    /// Complete and verified.
    Staged,
    /// Tried again by its agent.
    Failed,
    Offline,
}

impl TryFrom<v1::StagedImage> for StagedHost {
    type Error = Invalid;

    fn try_from(wire: v1::StagedImage) -> Result<Self, Invalid> {
        let state = state(wire.state())?;
        let v1::StagedImage {
            reference,
            digest: bytes,
            host,
            state: _,
            reason,
            size,
            received,
            wire: sent,
            saved,
            source,
            by,
            since_ms,
            until_ms,
            left_ms,
        } = wire;
        Ok(Self {
            image: reference,
            digest: digest("digest", &bytes)?.to_string(),
            host,
            state,
            reason: printable(&reason),
            size_bytes: size,
            received_bytes: received,
            sent_bytes: sent,
            saved_bytes: saved,
            source,
            by,
            since: At::unless_never(since_ms),
            until: At::unless_never(until_ms),
            left_seconds: left_ms.map(|millis| millis.div_ceil(1000)),
        })
    }
}

fn state(wire: StagingState) -> Result<State, Invalid> {
    Ok(match wire {
        StagingState::Unspecified => return Err(Invalid::Missing("state")),
        StagingState::Waiting => State::Waiting,
        StagingState::Going => State::Going,
        StagingState::Staged => State::Staged,
        StagingState::Failed => State::Failed,
        StagingState::Offline => State::Offline,
    })
}

impl StagedView {
    pub(crate) fn read(staged: Vec<v1::StagedImage>) -> Result<Self, Invalid> {
        let staged: Result<_, _> = staged.into_iter().map(StagedHost::try_from).collect();
        Ok(Self { staged: staged? })
    }

    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        let header = &["IMAGE", "HOST", "STATE", "SENT", "SAVED", "BY", "KEPT UNTIL"];
        let mut table = Table::new(header);
        for one in &self.staged {
            let until = one.until.map(|until| until.relative(now));
            table.row(vec![
                one.image.clone().into(),
                one.host.clone().into(),
                Cell::toned(one.words(), one.tone()),
                shown(one.sent_bytes).into(),
                shown(one.saved_bytes).into(),
                short_identity(&one.by).into(),
                until.unwrap_or_else(|| "in use".to_owned()).into(),
            ]);
        }
        table.render(color, "Nothing is staged. `shoal image stage NAME:TAG HOST` does it.")
    }
}

fn shown(number: u64) -> String {
    if number == 0 { String::new() } else { bytes(number) }
}

impl StagedHost {
    /// Whether waiting for it makes sense no more.
    pub(crate) fn is_there(&self) -> bool {
        self.state == State::Staged
    }

    /// How far it is, in words.
    pub(crate) fn words(&self) -> String {
        let Self { state, reason, size_bytes, received_bytes, left_seconds, .. } = self;
        match state {
            State::Waiting => "waiting".to_owned(),
            State::Going => {
                let left =
                    left_seconds.map(|left| format!(", {} left", span(Duration::from_secs(left))));
                let done = percent(*received_bytes, *size_bytes);
                format!("{done} % of {}{}", bytes(*size_bytes), left.unwrap_or_default())
            }
            State::Staged => "staged".to_owned(),
            State::Failed => format!("failed: {reason}"),
            State::Offline => "offline".to_owned(),
        }
    }

    fn tone(&self) -> Tone {
        match self.state {
            State::Staged => Tone::Good,
            State::Waiting | State::Going => Tone::Waiting,
            State::Failed => Tone::Bad,
            State::Offline => Tone::Faint,
        }
    }

    /// What it came to, where it is there.
    pub(crate) fn came(&self) -> String {
        match (self.sent_bytes, self.saved_bytes) {
            (0, 0) => "staged".to_owned(),
            (sent, saved) => format!("staged: {} sent, {} saved", bytes(sent), bytes(saved)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(state: StagingState) -> StagedHost {
        let wire = v1::StagedImage {
            reference: "shop:1".into(),
            digest: vec![1; 32].into(),
            host: "h1".into(),
            state: state.into(),
            reason: "disk\u{1b} full".into(),
            size: 100 << 20,
            received: 25 << 20,
            wire: 1 << 20,
            saved: 99 << 20,
            source: "controller".into(),
            by: "spiffe://x/user/ann".into(),
            since_ms: 1000,
            until_ms: 61_000,
            left_ms: Some(4200),
        };
        wire.try_into().unwrap()
    }

    #[test]
    fn a_host_says_how_far_it_is() {
        let words = |state| one(state).words();
        assert_eq!(words(StagingState::Going), "25 % of 100.0 MiB, 5s left");
        assert_eq!(words(StagingState::Failed), "failed: disk\u{fffd} full");
        assert_eq!(one(StagingState::Staged).came(), "staged: 1.0 MiB sent, 99.0 MiB saved");
        assert!(state(StagingState::Unspecified).is_err());
    }

    #[test]
    fn the_table_names_who_asked_and_until_when() {
        let view = StagedView { staged: vec![one(StagingState::Staged)] };
        let table = view.table(Timestamp(1000), false);
        assert_eq!(
            table,
            "IMAGE    HOST   STATE    SENT      SAVED      BY         KEPT UNTIL\n\
             shop:1   h1     staged   1.0 MiB   99.0 MiB   user/ann   in 1m"
        );
    }
}
