//! The addresses that a container has, read from /proc: cheap enough for every look at the host.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that are told of.
const MOST: usize = 16;
/// Bytes of a file of the kernel that are read.
const LONGEST: u64 = 256 << 10;

/// The addresses of the network that process `leader` is in, but for those that mean only that
/// network itself or its link. Empty where it has none or has ended.
#[must_use]
pub fn addresses(leader: u32) -> Vec<IpAddr> {
    let v4 = v4(&beginning(leader, "fib_trie")).into_iter().map(IpAddr::V4);
    let v6 = v6(&beginning(leader, "if_inet6")).into_iter().map(IpAddr::V6);
    v4.chain(v6).take(MOST).collect()
}

/// As much of a file as is looked at: root inside may give its network any number of routes and
/// addresses.
fn beginning(leader: u32, file: &str) -> String {
    let mut bytes = Vec::new();
    let Ok(file) = fs::File::open(format!("/proc/{leader}/net/{file}")) else {
        return String::new();
    };
    // What was read before an error still tells something.
    let _ = file.take(LONGEST).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An address of the host itself is a leaf of the routing trie, with `/32 host LOCAL` below it.
fn v4(trie: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut leaf = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf.filter(|ip| !ip.is_loopback() && !ip.is_link_local()));
        }
    }
    found
}

/// Lines of `address index prefix scope flags name`, in hexadecimal; scope 0 is the world.
fn v6(table: &str) -> BTreeSet<Ipv6Addr> {
    let lines = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let bits = u128::from_str_radix(words.next()?, 16).ok()?;
        (words.nth(2)? == "00").then_some(Ipv6Addr::from_bits(bits))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.0.0/24 2 0 2
        |-- 10.0.0.0
           /24 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 10.0.0.0/24 2 0 2
        +-- 10.0.0.0/27 2 0 2
           |-- 10.0.0.0
              /24 link UNICAST
           |-- 10.0.0.24
              /32 host LOCAL
        |-- 10.0.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
";

    const INET6: &str = "\
fe800000000000002040 02 40 20 80    host0
fe80000000000000204 05ffffe1bc90d 02 40 20 80 host0
fd000000000000000000000000000002 02 40 00 80    host0
00000000000000000000000000000001 01 80 10 80       lo
";

    #[test]
    fn own_addresses_are_found_and_others_are_not() {
        assert_eq!(v4(TRIE), ["10.0.0.24".parse().unwrap()].into());
        assert_eq!(v6(INET6), ["fd00::2".parse().unwrap()].into());
        assert!(v4("").is_empty() && v6("").is_empty());
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        assert!(addresses(u32::MAX).is_empty());
    }
}
