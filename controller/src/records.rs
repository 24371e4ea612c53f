//! Which records the controller keeps, and under which keys.
//!
//! | key | record |
//! |---|---|
//! | `hosts/<host id>` | [`HostRecord`] |
//! | `host-names/<name>` | [`HostNameRecord`]: makes names unique |
//! | `presence/<host id>` | [`PresenceRecord`], written at transitions only |
//! | `host-specs/<host id>` | [`HostSpecRecord`]: the desired state, with its generation |
//! | `host-statuses/<host id>` | [`HostStatusRecord`]: the last one reported |
//! | `tokens/<token id>` | [`TokenRecord`] |
//! | `images/<digest>` | [`ImageRecord`] |
//! | `tags/<name>/<tag>` | [`TagRecord`] |
//! | `staged/<digest>/<host id>` | [`StagedRecord`]: someone asked the host to have the image ahead |
//! | `fleets/<fleet>` | [`FleetRecord`]: the newest revision |
//! | `revisions/<fleet>/<number>` | [`RevisionRecord`], never changed |
//! | `rollouts/<fleet>/<number>` | [`RolloutRecord`] |
//! | `locks/<fleet>` | [`LockRecord`]: who keeps others from changing it; may have expired |
//! | `secret-heads/<name>` | [`SecretHeadRecord`]; stays when the secret is removed |
//! | `secrets/<name>@<version>` | [`SecretRecord`], never changed |
//! | `users/<name>` | [`UserRecord`] |
//! | `audit/<time>-<random>` | [`AuditRecord`] |
//! | `events/<time>-<hash>` | [`EventRecord`] |
//! | `epoch/current` | [`EpochRecord`] |
//!
//! Numbers and times in keys have 20 digits, so that their byte order is their order.

use shoal_proto::v1::store::{
    AgentProgramRecord, AuditRecord, EpochRecord, EventRecord, FleetRecord, HostNameRecord,
    HostRecord, HostSpecRecord, HostStatusRecord, ImageRecord, LockRecord, PresenceRecord,
    RevisionRecord, RolloutRecord, SecretHeadRecord, SecretRecord, StagedRecord, TagRecord,
    TokenRecord, UserRecord,
};

use crate::store::Record;

macro_rules! records {
    ($($record:ident under $prefix:literal),* $(,)?) => {
        $(impl Record for $record {
            const PREFIX: &'static str = $prefix;
        })*
    };
}

records! {
    HostRecord under "hosts/",
    HostNameRecord under "host-names/",
    PresenceRecord under "presence/",
    HostSpecRecord under "host-specs/",
    HostStatusRecord under "host-statuses/",
    TokenRecord under "tokens/",
    ImageRecord under "images/",
    TagRecord under "tags/",
    StagedRecord under "staged/",
    FleetRecord under "fleets/",
    RevisionRecord under "revisions/",
    RolloutRecord under "rollouts/",
    LockRecord under "locks/",
    SecretHeadRecord under "secret-heads/",
    SecretRecord under "secrets/",
    UserRecord under "users/",
    AuditRecord under "audit/",
    EventRecord under "events/",
    AgentProgramRecord under "agent-programs/",
    EpochRecord under "epoch/",
}

/// A number as part of a key.
#[must_use]
pub fn number(number: u64) -> String {
    format!("{number:020}")
}

/// The id of a fleet's revision and of its rollout.
#[must_use]
pub fn revision_id(fleet: &str, revision: u64) -> String {
    format!("{fleet}/{}", number(revision))
}
