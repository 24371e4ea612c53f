//! Connections from within an instance's network.

use std::io;
use std::net::SocketAddr;

use shoal_core::spec::TcpAddress;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::host::enter::{self, Container};

/// Whether `address` accepts a connection.
pub(super) async fn check(container: &Container, address: &TcpAddress) -> Result<(), String> {
    let connected = connect(container, address.socket_addr()).await.map(drop);
    connected.map_err(|e| format!("tcp {address} does not accept: {e}"))
}

/// Connects from within the network of `container`.
pub(super) async fn connect(container: &Container, address: SocketAddr) -> io::Result<TcpStream> {
    socket(container.clone(), address.is_ipv4()).await?.connect(address).await
}

/// A socket in the network of `container`. A socket stays in the network that it was made in, so
/// only its making needs a thread that goes there, and that thread never waits for anything.
async fn socket(container: Container, v4: bool) -> io::Result<TcpSocket> {
    let (send, receive) = oneshot::channel();
    let make = move || {
        enter::join_network(&container)?;
        if v4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
    };
    let thread = std::thread::Builder::new().name("probe".into());
    // Where nobody waits for the socket any more, it is closed.
    thread.spawn(move || drop(send.send(make())))?;
    receive.await.map_err(io::Error::other)?
}
