//! Saying something in the host's journal under a name of its own, for what a unit runs beside its
//! container: journald's own protocol, a datagram for each entry. What a unit merely prints is under
//! the unit's name, and counts as the console of a booted system, whose own journal is shown instead.

use std::io::Write;
use std::os::unix::net::UnixDatagram;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Someone who says things. The journal notes of which unit they are.
#[derive(Debug)]
pub struct Voice {
    name: String,
    socket: Option<UnixDatagram>,
}

impl Voice {
    /// One called `name`, as `shoal logs` shows it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let socket = UnixDatagram::unbound();
        let connected = socket.and_then(|socket| socket.connect(SOCKET).map(|()| socket));
        Self { name: name.to_owned(), socket: connected.ok() }
    }

    /// Says a line, at a syslog priority (0 to 7). Where there is no journal, to whom it may concern.
    pub fn say(&self, priority: u8, line: &[u8]) {
        let entry = entry(&self.name, priority, line);
        let said = self.socket.as_ref().is_some_and(|socket| socket.send(&entry).is_ok());
        if !said {
            let all = [self.name.as_bytes(), b": ", line, b"\n"].concat();
            let _ = std::io::stderr().write_all(&all);
        }
    }
}

/// An entry of a line, which has no line break in it.
fn entry(name: &str, priority: u8, line: &[u8]) -> Vec<u8> {
    let head = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={name}\nMESSAGE=");
    let broken = |byte: &u8| if *byte == b'\n' { b' ' } else { *byte };
    let line = line.iter().map(broken);
    head.into_bytes().into_iter().chain(line).chain([b'\n']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_cant_be_led_to_say_more_than_its_line() {
        let entry = entry("hook-init", 6, b"a\n_UID=0\xff");
        assert_eq!(
            entry, b"PRIORITY=6\nSYSLOG_IDENTIFIER=hook-init\nMESSAGE=a _UID=0\xff\n",
            "a field of its own would begin a line"
        );
    }
}
