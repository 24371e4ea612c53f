//! All live connections, so that they can be ended from outside.
//!
//! Way in: [`Connections`], a handle that clones share. A cut connection fails its next read and
//! write, whatever they were waiting for; calls on it end with an error.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use shoal_tls::Identity;
use tokio_util::sync::CancellationToken;

use super::conn::ConnectInfo;

/// The handle.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    live: HashMap<u64, Live>,
}

#[derive(Debug)]
struct Live {
    info: ConnectInfo,
    cut: CancellationToken,
}

impl Connections {
    /// Ends every connection of `identity`; returns how many there were.
    pub fn cut_identity(&self, identity: &Identity) -> usize {
        self.cut_where(|info| info.identity() == Some(identity))
    }

    /// Ends every connection made with the certificate of this serial number (lower-case hex).
    pub fn cut_serial(&self, serial: &str) -> usize {
        self.cut_where(|info| info.client.as_ref().is_some_and(|client| client.serial == serial))
    }

    /// Ends every connection whose client's certificate expired more than `grace` before `now`.
    pub fn cut_expired(&self, now: SystemTime, grace: Duration) -> usize {
        let over = |end: SystemTime| end.checked_add(grace).is_some_and(|limit| limit < now);
        self.cut_where(|info| info.client.as_ref().is_some_and(|client| over(client.not_after)))
    }

    /// Ends every connection: for what is left when a drain has taken too long.
    pub fn cut_all(&self) -> usize {
        self.cut_where(|_| true)
    }

    /// Who is connected.
    pub fn list(&self) -> Vec<ConnectInfo> {
        self.lock().live.values().map(|live| live.info.clone()).collect()
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.lock().live.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts only those not cut before, which may still be on their way out.
    fn cut_where(&self, condition: impl Fn(&ConnectInfo) -> bool) -> usize {
        let table = self.lock();
        let chosen: Vec<&Live> = table
            .live
            .values()
            .filter(|live| !live.cut.is_cancelled() && condition(&live.info))
            .collect();
        chosen.iter().for_each(|live| live.cut.cancel());
        chosen.len()
    }

    pub(super) fn register(&self, info: ConnectInfo) -> Registration {
        let cut = CancellationToken::new();
        let mut table = self.lock();
        let id = table.next;
        table.next += 1;
        table.live.insert(id, Live { info, cut: cut.clone() });
        Registration { id, cut, connections: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the table, left when dropped.
#[derive(Debug)]
pub(super) struct Registration {
    id: u64,
    cut: CancellationToken,
    connections: Connections,
}

impl Registration {
    /// Cancelled when the connection has to end.
    pub(super) fn cut(&self) -> &CancellationToken {
        &self.cut
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.lock().live.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use shoal_tls::CertificateInfo;

    use super::*;

    const EXPIRY: Duration = Duration::from_secs(1_000_000);

    fn peer(path: &str, serial: &str) -> ConnectInfo {
        let client = CertificateInfo {
            identity: format!("spiffe://x/{path}").parse().unwrap(),
            serial: serial.to_owned(),
            not_before: UNIX_EPOCH,
            not_after: UNIX_EPOCH + EXPIRY,
            spki_sha256: [0; 32],
        };
        ConnectInfo { peer_addr: "10.0.0.1:1".parse().unwrap(), client: Some(client) }
    }

    #[test]
    fn cuts_only_what_was_named_and_counts_it_once() {
        let connections = Connections::default();
        let (a1, a2) = (
            connections.register(peer("agent/a", "01")),
            connections.register(peer("agent/a", "02")),
        );
        let user = connections.register(peer("user/a", "03"));
        let identity = "spiffe://x/agent/a".parse().unwrap();

        assert_eq!(connections.cut_serial("02"), 1);
        assert_eq!(connections.cut_identity(&identity), 1);
        assert_eq!(connections.cut_identity(&identity), 0);
        assert!(a1.cut().is_cancelled() && a2.cut().is_cancelled());
        assert!(!user.cut().is_cancelled());
        assert_eq!(connections.cut_all(), 1);
    }

    #[test]
    fn leaves_with_its_registration() {
        let connections = Connections::default();
        let registration = connections.register(peer("agent/a", "01"));
        assert_eq!(connections.list(), [peer("agent/a", "01")]);
        drop(registration);
        assert!(connections.is_empty());
    }

    #[test]
    fn expiry_is_after_the_grace() {
        let connections = Connections::default();
        let _agent = connections.register(peer("agent/a", "01"));
        let anonymous = ConnectInfo { peer_addr: "10.0.0.2:1".parse().unwrap(), client: None };
        let _joining = connections.register(anonymous);
        let (end, grace) = (UNIX_EPOCH + EXPIRY, Duration::from_secs(60));
        assert_eq!(connections.cut_expired(end, grace), 0);
        assert_eq!(connections.cut_expired(end + grace, grace), 0);
        assert_eq!(connections.cut_expired(end + grace + Duration::from_secs(1), grace), 1);
    }
}
