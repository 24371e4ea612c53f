//! How many unfinished connections each peer address has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The count for all addresses.
#[derive(Debug)]
pub(super) struct PeerSlots {
    limit: usize,
    counts: Counts,
}

/// One of an address' slots, given back when dropped.
#[derive(Debug)]
pub(super) struct PeerSlot {
    address: IpAddr,
    counts: Counts,
}

impl PeerSlots {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, counts: Counts::default() }
    }

    /// A slot, or none if the address has them all.
    pub(super) fn take(&self, address: IpAddr) -> Option<PeerSlot> {
        let address = address.to_canonical();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = counts.get(&address).copied().unwrap_or(0);
        if taken >= self.limit {
            return None;
        }
        counts.insert(address, taken + 1);
        Some(PeerSlot { address, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.address) {
            Some(taken) if *taken > 1 => *taken -= 1,
            // Removed rather than kept at zero: the table must not grow with every address seen.
            _ => drop(counts.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_and_leave_no_trace() {
        let slots = PeerSlots::new(2);
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let held = [slots.take(a), slots.take("::ffff:10.0.0.1".parse().unwrap())];
        assert!(held.iter().all(Option::is_some));
        assert!(slots.take(a).is_none());
        assert!(slots.take(b).is_some());
        drop(held);
        assert!(slots.take(a).is_some());
        assert!(slots.counts.lock().unwrap().is_empty());
    }
}
