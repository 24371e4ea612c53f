//! What is to be done next about one fleet on a host that is drained. Pure.

use shoal_core::rollout::{Rollout, State};

/// What is known of the fleet now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Whether the host's desired state has instances of it.
    pub(super) wanted: bool,
    /// Whether its newest revision places instances there.
    pub(super) placed: bool,
    /// Whether the agent said last that some are there.
    pub(super) observed: bool,
    /// Whether that agent is connected.
    pub(super) online: bool,
    /// The rollout of the newest revision.
    pub(super) rollout: &'a Rollout,
}

/// What this drain did about the fleet so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tried {
    /// The revision that it made.
    pub(super) revision: Option<u64>,
    /// Why it could make none, and how many fleets were gone by then: room for another try only
    /// comes of those.
    pub(super) refused: Option<(String, usize)>,
}

/// What is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Make a revision that leaves the host out.
    Apply,
    /// Something is under way.
    Wait(String),
    /// Instances are left, and waiting does not help.
    Stuck(String),
    /// Nothing of it is left.
    Gone,
}

/// What is next, where `gone` fleets have left the host.
pub(super) fn next(seen: Seen<'_>, tried: &Tried, gone: usize) -> Next {
    let rollout = seen.rollout;
    if !rollout.state.is_final() {
        return Next::Wait(under_way(rollout));
    }
    if !(seen.wanted || seen.placed) {
        return match (seen.observed, seen.online) {
            (false, _) => Next::Gone,
            (true, true) => Next::Wait("the agent stops them".into()),
            (true, false) => {
                Next::Stuck("the host is offline; it stops them when it is back".into())
            }
        };
    }
    if tried.revision == Some(rollout.revision) {
        return Next::Stuck(ended(rollout));
    }
    match &tried.refused {
        Some((why, then)) if gone <= *then => Next::Stuck(why.clone()),
        _ => Next::Apply,
    }
}

/// What a rollout that has not ended is at.
fn under_way(rollout: &Rollout) -> String {
    let Rollout { revision, batch, .. } = rollout;
    if let Some(hold) = &rollout.hold {
        return format!("the rollout of revision {revision} is held: {}", hold.why);
    }
    match rollout.state {
        State::RollingBack => {
            let cause = rollout.cause.as_deref().unwrap_or("it failed");
            format!("the rollout of revision {revision} goes back: {cause}")
        }
        State::Waiting => format!("the rollout of revision {revision} waits for offline hosts"),
        _ if *batch == 0 => format!("the rollout of revision {revision} begins"),
        _ => format!("the rollout of revision {revision} is at batch {batch}"),
    }
}

/// Why instances are there although the rollout that was to take them away has ended.
fn ended(rollout: &Rollout) -> String {
    let how = match rollout.state {
        State::RolledBack => "was rolled back",
        State::Aborted => "was aborted",
        State::TimedOut => "timed out",
        State::Superseded => "was superseded",
        State::Partial => "is partial",
        State::Completed => "is through",
        _ => "failed",
    };
    let (fleet, revision) = (&rollout.fleet, rollout.revision);
    let cause = rollout.cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("the rollout of revision {revision} {how}{cause}; see `shoal rollout watch {fleet}`")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use shoal_core::rollout::{Hold, HoldKind, Offline, Policy};
    use shoal_core::time::Timestamp;

    use super::*;

    fn rollout(revision: u64, state: State) -> Rollout {
        Rollout {
            fleet: "shop".parse().unwrap(),
            revision,
            back_to: None,
            policy: Policy::default(),
            offline: Offline::Skip,
            timeout: Duration::from_secs(60),
            state,
            hold: None,
            batch: 2,
            proofs: 0,
            promoted: 0,
            ready_since: None,
            cause: None,
            hosts: BTreeMap::new(),
            started: Timestamp(1),
            deadline: Timestamp(2),
            ended: None,
        }
    }

    /// Which of desired state, newest revision and agent have instances there, as `wpo`.
    fn seen<'a>(has: &str, online: bool, rollout: &'a Rollout) -> Seen<'a> {
        let has = |letter| has.contains(letter);
        Seen { wanted: has('w'), placed: has('p'), observed: has('o'), online, rollout }
    }

    fn made(revision: u64) -> Tried {
        Tried { revision: Some(revision), ..Tried::default() }
    }

    #[test]
    fn a_fleet_is_moved_once_and_then_waited_for() {
        let wait = |why: &str| Next::Wait(why.into());
        let [old, done] = [rollout(7, State::Completed), rollout(8, State::Completed)];
        let running = rollout(8, State::Changing);
        let table = [
            ("wpo", &old, Tried::default(), Next::Apply),
            ("p", &old, Tried::default(), Next::Apply),
            ("wpo", &running, Tried::default(), wait("the rollout of revision 8 is at batch 2")),
            ("wo", &running, made(8), wait("the rollout of revision 8 is at batch 2")),
            ("", &running, made(8), wait("the rollout of revision 8 is at batch 2")),
            ("o", &done, made(8), wait("the agent stops them")),
            ("", &done, made(8), Next::Gone),
            ("wo", &done, Tried::default(), Next::Apply),
            ("wpo", &rollout(9, State::Completed), made(8), Next::Apply),
        ];
        for (has, rollout, tried, wanted) in table {
            assert_eq!(next(seen(has, true, rollout), &tried, 0), wanted, "{has} {tried:?}");
        }
    }

    #[test]
    fn what_stays_says_why() {
        let stuck =
            |has, online, rollout: &Rollout| match next(seen(has, online, rollout), &made(8), 0) {
                Next::Stuck(why) => why,
                other => panic!("{other:?}"),
            };
        let mut back = rollout(8, State::RolledBack);
        back.cause = Some("shop/web: exit code 1".into());
        assert_eq!(
            stuck("wo", true, &back),
            "the rollout of revision 8 was rolled back: shop/web: exit code 1; see `shoal rollout \
             watch shop`"
        );
        let partial = rollout(8, State::Partial);
        assert!(stuck("o", false, &partial).contains("the host is offline"));
        assert!(stuck("w", true, &rollout(8, State::Failed)).contains("revision 8 failed; see"));
    }

    #[test]
    fn a_held_rollout_is_waited_for_and_says_by_whom() {
        let mut held = rollout(8, State::Monitoring);
        let (why, since) = ("ann paused it: lunch".to_owned(), Timestamp(1));
        held.hold = Some(Hold { kind: HoldKind::Operator, why, since, remaining: Duration::ZERO });
        let why = "the rollout of revision 8 is held: ann paused it: lunch".to_owned();
        assert_eq!(next(seen("wpo", true, &held), &Tried::default(), 0), Next::Wait(why));
    }

    #[test]
    fn a_refusal_stands_until_another_fleet_has_left() {
        let refused = Tried { revision: None, refused: Some(("count = 3".into(), 1)) };
        let old = rollout(7, State::Completed);
        let at = |gone| next(seen("wpo", true, &old), &refused, gone);
        assert_eq!(at(1), Next::Stuck("count = 3".into()));
        assert_eq!(at(2), Next::Apply);
    }
}
