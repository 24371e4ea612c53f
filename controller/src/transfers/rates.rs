//! How fast images may leave: in all, and to each host.
//!
//! A sender asks before each chunk, and only when the host can take one. So a host that is slow
//! asks for nothing that others could have, and those that are not get equal shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use shoal_core::name::HostId;
use shoal_core::pace::Pace;
use shoal_core::spec::Memory;
use tokio::time::Instant;

/// The limits of this controller.
#[derive(Debug)]
pub(super) struct Rates {
    begin: Instant,
    all: Option<Arc<Mutex<Pace>>>,
    per_host: Option<Memory>,
    hosts: Mutex<HashMap<HostId, Weak<Mutex<Pace>>>>,
}

/// What one transfer has to keep to.
#[derive(Debug)]
pub(crate) struct Lane {
    begin: Instant,
    paces: Vec<Arc<Mutex<Pace>>>,
}

impl Rates {
    /// Bytes in a second to all hosts, and to each; as many as there can be where nothing is said.
    pub(super) fn new(all: Option<Memory>, per_host: Option<Memory>) -> Self {
        let all = all.map(|Memory(rate)| Arc::new(Mutex::new(Pace::new(rate))));
        Self { begin: Instant::now(), all, per_host, hosts: Mutex::default() }
    }

    /// For a transfer to `host`.
    pub(super) fn lane(&self, host: &HostId) -> Lane {
        let own = self.per_host.map(|Memory(rate)| {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            hosts.retain(|_, pace| pace.strong_count() > 0);
            let there = hosts.get(host).and_then(Weak::upgrade);
            there.unwrap_or_else(|| {
                let pace = Arc::new(Mutex::new(Pace::new(rate)));
                hosts.insert(host.clone(), Arc::downgrade(&pace));
                pace
            })
        });
        Lane { begin: self.begin, paces: own.into_iter().chain(self.all.clone()).collect() }
    }
}

impl Lane {
    /// Waits until so many bytes may go.
    pub(crate) async fn pass(&self, bytes: usize) {
        for pace in &self.paces {
            let turn = {
                let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
                pace.turn(bytes, self.begin.elapsed())
            };
            tokio::time::sleep_until(self.begin + turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const CHUNK: usize = 256 << 10;

    /// Sends chunks for a while; a slow one takes a second for each.
    async fn sent(lane: Lane, slow: bool) -> usize {
        let count = AtomicUsize::new(0);
        let sending = async {
            loop {
                lane.pass(CHUNK).await;
                count.fetch_add(1, Ordering::SeqCst);
                if slow {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        };
        let _: Result<(), _> = tokio::time::timeout(Duration::from_secs(60), sending).await;
        count.load(Ordering::SeqCst)
    }

    fn hosts() -> [HostId; 3] {
        ["h1", "h2", "h3"].map(|host| host.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_get_equal_shares_and_a_slow_one_leaves_its_own_to_the_others() {
        let rates = Rates::new(Some(Memory(2 << 20)), None);
        let [one, two, three] = hosts().map(|host| rates.lane(&host));
        // Eight chunks a second in all.
        let (one, two) = tokio::join!(sent(one, false), sent(two, false));
        assert!(one.abs_diff(two) <= 1 && (478..=484).contains(&(one + two)), "{one} {two}");
        let [one, two, _] = hosts().map(|host| rates.lane(&host));
        let (one, two, slow) = tokio::join!(sent(one, false), sent(two, false), sent(three, true));
        assert!((40..=61).contains(&slow), "{slow}");
        assert!(one.abs_diff(two) <= 1 && (476..=484).contains(&(one + two + slow)), "{one} {two}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_has_one_share_however_much_it_asks() {
        let rates = Rates::new(None, Some(Memory(1 << 20)));
        let [one, two, _] = hosts();
        let both = [rates.lane(&one), rates.lane(&one)];
        let [first, second] = both.map(|lane| sent(lane, false));
        let (first, second, other) = tokio::join!(first, second, sent(rates.lane(&two), false));
        // Four chunks a second for each.
        assert!((238..=243).contains(&(first + second)), "{first} {second}");
        assert!((238..=243).contains(&other), "{other}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_nobody_waits() {
        let rates = Rates::new(None, None);
        let begin = Instant::now();
        rates.lane(&hosts()[0]).pass(1 << 30).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
