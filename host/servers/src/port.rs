//! A port that nobody else holds.
//!
//! The system gives a free one, but between letting it go and the server's taking it somebody else may come. So whose
//! listening socket it is gets looked up before anything is sent to it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use tokio::net::TcpSocket;

/// Who listens on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody yet.
    Nobody,
    /// A process of the group, on this machine's own address only.
    Group,
    /// A process of the group, but for other machines too.
    GroupOpen,
    /// Somebody else.
    Other,
    /// This system does not say.
    Unknown,
}

/// A port of 127.0.0.1 that is free now, in the network of the socket, which is given up for it.
pub(crate) fn free(socket: TcpSocket) -> io::Result<u16> {
    // The kernel never gives one with port 0 that somebody has.
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(socket.local_addr()?.port())
}

/// Who listens on the port now, as seen for a process group. `tables` is what the kernel tells of the network that the port
/// is in.
pub(crate) fn holder(tables: &Path, port: u16, group: i32) -> Holder {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(tables.join(name)).ok());
    let [Some(four), six] = tables else {
        return Holder::Unknown;
    };
    let mut found: Vec<Listener> = listeners(&four, Some(port));
    found.extend(listeners(&six.unwrap_or_default(), Some(port)));
    if found.is_empty() {
        return Holder::Nobody;
    }
    let sockets = sockets_of_group(group);
    let (ours, others): (Vec<_>, Vec<_>) = found
        .iter()
        .partition(|listener| sockets.contains(&listener.inode));
    // One on the very address that we will ask decides; another's on some other address is nobody's business here.
    if others.iter().any(|listener| listener.answers_here) {
        Holder::Other
    } else if ours.iter().any(|listener| !listener.loopback) {
        Holder::GroupOpen
    } else if ours.iter().any(|listener| listener.answers_here) {
        Holder::Group
    } else {
        Holder::Nobody
    }
}

/// Whether a process of the group listens for other machines in the network of these tables, on whichever port. None where
/// this system does not say.
pub(crate) fn is_open(tables: &Path, group: i32) -> Option<bool> {
    let four = fs::read_to_string(tables.join("tcp")).ok()?;
    let six = fs::read_to_string(tables.join("tcp6")).unwrap_or_default();
    let mut found = listeners(&four, None);
    found.extend(listeners(&six, None));
    found.retain(|listener| !listener.loopback);
    if found.is_empty() {
        return Some(false);
    }
    let sockets = sockets_of_group(group);
    Some(
        found
            .iter()
            .any(|listener| sockets.contains(&listener.inode)),
    )
}

struct Listener {
    inode: u64,
    loopback: bool,
    /// What connects to 127.0.0.1 may come to it.
    answers_here: bool,
}

/// The listening sockets of a port, or of all, in a table of `/proc/net`.
fn listeners(table: &str, port: Option<u16>) -> Vec<Listener> {
    const LISTEN: &str = "0A";
    let wanted = port.map(|port| format!("{port:04X}"));
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let (address, on) = fields.nth(1)?.split_once(':')?;
        if wanted.as_ref().is_some_and(|wanted| on != wanted) || fields.nth(1)? != LISTEN {
            return None;
        }
        let inode = fields.nth(5)?.parse().ok()?;
        let loopback = is_loopback(address);
        let wildcard = address.bytes().all(|digit| digit == b'0');
        let mapped = address.len() == 8 || address.starts_with("0000000000000000FFFF0000");
        Some(Listener {
            inode,
            loopback,
            answers_here: wildcard || (loopback && mapped),
        })
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// Whether an address as the kernel prints it, in words of the machine's byte order, is this machine's own.
fn is_loopback(address: &str) -> bool {
    let word = |text: &str| {
        u32::from_str_radix(text, 16)
            .map(u32::to_ne_bytes)
            .unwrap_or_default()
    };
    match address.len() {
        8 => word(address).first() == Some(&127),
        32 => {
            let (high, low) = address.split_at(24);
            let mapped = high.starts_with("0000000000000000")
                && word(high.get(16..).unwrap_or_default()) == [0, 0, 255, 255];
            let zero = high.bytes().all(|digit| digit == b'0');
            (mapped && word(low).first() == Some(&127)) || (zero && word(low) == [0, 0, 0, 1])
        }
        _ => false,
    }
}

/// The sockets that the processes of a group hold.
fn sockets_of_group(group: i32) -> Vec<u64> {
    let mut sockets = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        if !is_number(&path) || group_of(&path) != Some(group) {
            continue;
        }
        let descriptors = fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        sockets.extend(descriptors.filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse::<u64>()
                .ok()
        }));
    }
    sockets
}

fn is_number(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
}

fn group_of(process: &Path) -> Option<i32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // After the name in parentheses: state, parent, group.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TABLES: &str = "/proc/self/net";

    fn own_group() -> i32 {
        group_of(Path::new("/proc/self")).unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_listens_is_known() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(holder(Path::new(TABLES), port, own_group()), Holder::Group);
        assert_eq!(holder(Path::new(TABLES), port, i32::MAX), Holder::Other);
        drop(listener);
        assert_eq!(holder(Path::new(TABLES), port, own_group()), Holder::Nobody);
        let open = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        assert_eq!(
            holder(
                Path::new(TABLES),
                open.local_addr().unwrap().port(),
                own_group()
            ),
            Holder::GroupOpen
        );
        assert_eq!(is_open(Path::new(TABLES), own_group()), Some(true));
        assert_eq!(is_open(Path::new(TABLES), i32::MAX), Some(false));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_are_read_as_the_kernel_prints_them() {
        for own in [
            "0100007F",
            "0000000000000000FFFF00000100007F",
            "00000000000000000000000001000000",
        ] {
            assert!(is_loopback(own), "{own}");
        }
        for other in [
            "00000000",
            "0101A8C0",
            "00000000000000000000000000000000",
            "x",
            "",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
