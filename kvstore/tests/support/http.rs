//! Plain HTTP, as probes and scrapers speak it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{Daemon, eventually};

/// Where a daemon serves metrics, which its log says.
pub(crate) fn address(daemon: &Daemon) -> SocketAddr {
    eventually("the port is known", || {
        let log = daemon.log();
        let line = log
            .lines()
            .find(|line| line.contains("metrics and probes are served"))?;
        line.split("address=").nth(1)?.trim().parse().ok()
    })
}

/// The answer's status and body.
pub(crate) fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
