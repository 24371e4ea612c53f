//! From which hosts another one gets an image, so that the controller's link carries it about once
//! for each site.
//!
//! Hosts that ask one after the other make a chain rather than a star: each link then carries the
//! image once, and the last host has it little later than the first. A host may get it only from
//! one that asked before it, so there is no circle.

use crate::name::HostId;

/// Hosts that one host serves at a time.
pub const MOST_SERVED: usize = 4;

/// The most hosts that are named to one that asks.
const MOST_NAMED: usize = 3;

/// Bytes that a host may be behind the first before it counts as slow; at least an eighth of the
/// image.
const BEHIND: u64 = 8 << 20;

/// A host that has an image, or some of it, and serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub host: HostId,
    /// Where it stands: hosts serve those of their own site only.
    pub site: String,
    /// How much of the image it has.
    pub has: Has,
    /// How many hosts were told to get it there and may be doing so.
    pub serving: usize,
}

/// How much of an image a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Has {
    /// All.
    All,
    /// It is receiving it.
    Some {
        /// Bytes of the image that were there when it last told.
        received: u64,
        /// Its place among those that asked.
        turn: u64,
    },
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Which host.
    pub host: &'a HostId,
    /// Where it stands.
    pub site: &'a str,
    /// Its place among those that asked.
    pub turn: u64,
}

/// The hosts that `asker` should get an image of `size` bytes from, the best first. Empty: from
/// the controller.
#[must_use]
pub fn holders_for<'a>(asker: Asker<'_>, size: u64, holders: &'a [Holder]) -> Vec<&'a HostId> {
    let received = |holder: &Holder| match holder.has {
        Has::All => None,
        Has::Some { received, .. } => Some(received),
    };
    let first = holders.iter().filter_map(received).max().unwrap_or(0);
    let slow = first.saturating_sub(BEHIND.max(size / 8));
    let serves = |holder: &&Holder| {
        let ahead = match holder.has {
            Has::All => true,
            Has::Some { received, turn } => turn < asker.turn && received >= slow,
        };
        let near = holder.site == asker.site && holder.host != *asker.host;
        near && ahead && holder.serving < MOST_SERVED
    };
    let mut found: Vec<&Holder> = holders.iter().filter(serves).collect();
    found.sort_by_key(|holder| {
        let last = match holder.has {
            Has::All => None,
            Has::Some { turn, .. } => Some(u64::MAX - turn),
        };
        (holder.serving, last, &holder.host)
    });
    found.iter().take(MOST_NAMED).map(|holder| &holder.host).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 100 << 20;

    fn holder(host: &str, has: Has, serving: usize) -> Holder {
        Holder { host: host.parse().unwrap(), site: "a".into(), has, serving }
    }

    fn some(mib: u64, turn: u64) -> Has {
        Has::Some { received: mib << 20, turn }
    }

    fn asked(host: &str, turn: u64, holders: &[Holder]) -> Vec<String> {
        let host = host.parse().unwrap();
        let asker = Asker { host: &host, site: "a", turn };
        holders_for(asker, SIZE, holders).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_situation_has_its_holders() {
        let elsewhere = Holder { site: "b".into(), ..holder("h1", Has::All, 0) };
        let cases: [(&str, Vec<Holder>, &[&str]); 8] = [
            ("nobody has it", vec![], &[]),
            ("whoever asks is no help", vec![holder("h9", some(0, 9), 0)], &[]),
            ("one that has all", vec![holder("h1", Has::All, 0)], &["h1"]),
            ("not over the sites' link", vec![elsewhere], &[]),
            (
                "a chain rather than a star",
                vec![holder("h1", Has::All, 1), holder("h2", some(5, 2), 0)],
                &["h2", "h1"],
            ),
            (
                "of those that serve as many, one that has all, then the last",
                vec![
                    holder("h1", some(7, 1), 0),
                    holder("h2", some(6, 2), 0),
                    holder("h3", Has::All, 0),
                ],
                &["h3", "h2", "h1"],
            ),
            ("one that asked later may wait for us", vec![holder("h1", some(50, 10), 0)], &[]),
            ("one that serves enough", vec![holder("h1", Has::All, MOST_SERVED)], &[]),
        ];
        for (what, holders, wanted) in cases {
            assert_eq!(asked("h9", 9, &holders), wanted, "{what}");
        }
    }

    #[test]
    fn a_slow_host_holds_up_no_other() {
        let holders = [holder("fast", some(60, 1), 1), holder("slow", some(5, 2), 0)];
        assert_eq!(asked("h9", 9, &holders), ["fast"]);
        let holders = [holder("fast", some(60, 1), 1), holder("near", some(50, 2), 0)];
        assert_eq!(asked("h9", 9, &holders), ["near", "fast"]);
    }

    proptest! {
        /// Hosts that ask one after the other, and some again: nobody waits for itself.
        #[test]
        fn there_is_no_circle(asking in prop::collection::vec((0_u64..12, 0_u64..100), 1..60)) {
            let mut from: std::collections::BTreeMap<u64, u64> = Default::default();
            let mut holders: Vec<Holder> = Vec::new();
            let mut turns: Vec<u64> = Vec::new();
            for (host, received) in asking {
                if !turns.contains(&host) {
                    turns.push(host);
                }
                let turn = |host| u64::try_from(turns.iter().position(|h| *h == host).unwrap());
                let mine = turn(host).unwrap();
                holders.retain(|holder| holder.host.as_str() != format!("h{host}"));
                let named = asked(&format!("h{host}"), mine, &holders);
                from.remove(&host);
                if let Some(name) = named.first() {
                    from.insert(host, name[1..].parse().unwrap());
                }
                holders.push(holder(&format!("h{host}"), some(received, mine), 0));
                let mut at = host;
                for _ in 0..=turns.len() {
                    let Some(next) = from.get(&at) else { break };
                    at = *next;
                    prop_assert!(at != host, "a circle through h{host}");
                }
            }
        }
    }
}
