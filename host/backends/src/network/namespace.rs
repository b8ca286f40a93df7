//! A network namespace, kept by a thread that lives in it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use super::NoNetwork;
use crate::exec::leave_network;

/// How long making a namespace may take. The kernel makes one at a time for the whole machine and takes milliseconds; shorter
/// would deny one to a server on a machine that starts many containers at once, longer lets the first job wait for nothing.
const MAKING: Duration = Duration::from_secs(10);

/// How long the kernel may take to answer about a device. It does so before the question's call returns.
const ANSWER: Duration = Duration::from_secs(2);

/// A network of its own. It is gone with the last clone of it and the last process in it.
#[derive(Debug, Clone)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    namespace: File,
    tables: PathBuf,
    /// To the thread, which ends when this goes.
    sockets: Sender<oneshot::Sender<io::Result<TcpSocket>>>,
}

impl Network {
    /// Makes one. Waits for the kernel.
    pub(super) fn make() -> Result<Self, NoNetwork> {
        let refused = |step, error: io::Error| NoNetwork::Refused {
            step,
            why: error.to_string(),
        };
        let (sockets, asked) = channel();
        let (tell, told) = sync_channel(1);
        thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || live(&tell, &asked))
            .map_err(|error| refused("starting a thread for a network namespace", error))?;
        let late = |_| {
            let late = io::Error::from(io::ErrorKind::TimedOut);
            refused("making a network namespace", late)
        };
        let (namespace, tables) = told.recv_timeout(MAKING).map_err(late)??;
        Ok(Self(Arc::new(Inner {
            namespace,
            tables,
            sockets,
        })))
    }

    /// A socket in it, not yet bound or connected.
    ///
    /// # Errors
    /// When the system gives none.
    pub async fn socket(&self) -> io::Result<TcpSocket> {
        let gone = || io::Error::other("the thread of a network namespace is gone");
        let (answer, answered) = oneshot::channel();
        self.0.sockets.send(answer).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// What the kernel tells of it: its `/proc/…/net`.
    #[must_use]
    pub fn tables(&self) -> &Path {
        &self.0.tables
    }

    /// By which a child enters it.
    pub(crate) fn entrance(&self) -> RawFd {
        self.0.namespace.as_raw_fd()
    }
}

type Made = Result<(File, PathBuf), NoNetwork>;

/// The thread: it goes into a new namespace, and makes sockets there until nobody can ask for one.
fn live(tell: &SyncSender<Made>, asked: &Receiver<oneshot::Sender<io::Result<TcpSocket>>>) {
    let made = enter_new();
    let stays = made.is_ok();
    if tell.send(made).is_err() || !stays {
        return;
    }
    for answer in asked {
        // Whoever asked may be gone; the socket goes too.
        drop(answer.send(TcpSocket::new_v4()));
    }
}

fn enter_new() -> Made {
    leave_network().map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::PERM) => NoNetwork::NotPermitted,
        // What a kernel says that was built without.
        Some(Errno::NOSYS | Errno::INVAL) => NoNetwork::None,
        Some(Errno::NOSPC | Errno::USERS) => NoNetwork::TooMany,
        _ => NoNetwork::Refused {
            step: "making a network namespace",
            why: error.to_string(),
        },
    })?;
    raise_loopback().map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::PERM) => NoNetwork::NotPermitted,
        _ => NoNetwork::Refused {
            step: "switching on the loopback device of a network namespace",
            why: error.to_string(),
        },
    })?;
    find().map_err(|error| NoNetwork::Refused {
        step: "looking at a network namespace in /proc",
        why: error.to_string(),
    })
}

/// The namespace that this thread is in, and where the kernel tells of it for as long as the thread lives.
fn find() -> io::Result<(File, PathBuf)> {
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let tables = Path::new("/proc")
        .join(fs::read_link("/proc/thread-self")?)
        .join("net");
    Ok((namespace, tables))
}

/// Switches the loopback device on, which gives it its addresses: a new namespace has it, off.
fn raise_loopback() -> io::Result<()> {
    let mut kernel = Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, None)?;
    kernel.set_read_timeout(Some(ANSWER))?;
    kernel.write_all(&question())?;
    let mut answer = [0; 256];
    let length = kernel.read(&mut answer)?;
    outcome(answer.get(..length).unwrap_or_default())
}

/// `RTM_NEWLINK` with the flag `IFF_UP` for the first device, which is the loopback in every namespace.
fn question() -> Vec<u8> {
    const LENGTH: u32 = 32;
    const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
    const FIRST: i32 = 1;
    const UP: u32 = 1;
    [
        // The header: length, kind, flags, sequence, sender.
        LENGTH.to_ne_bytes().as_slice(),
        &libc::RTM_NEWLINK.to_ne_bytes(),
        &REQUEST_AND_ACKNOWLEDGE.to_ne_bytes(),
        &1_u32.to_ne_bytes(),
        &0_u32.to_ne_bytes(),
        // The device: family and type, which do not matter; its number; its flags, and which of them are meant.
        &[0; 4],
        &FIRST.to_ne_bytes(),
        &UP.to_ne_bytes(),
        &UP.to_ne_bytes(),
    ]
    .concat()
}

/// What an acknowledgement says: the negative of an error's number, or zero.
fn outcome(answer: &[u8]) -> io::Result<()> {
    const ERROR: u16 = 2;
    let unclear = || io::Error::other("the kernel's answer cannot be read");
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok());
    let (Some(kind), Some(code)) = (kind, code) else {
        return Err(unclear());
    };
    match (u16::from_ne_bytes(kind), i32::from_ne_bytes(code)) {
        (ERROR, 0) => Ok(()),
        (ERROR, error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(unclear()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};

    use super::*;
    use crate::network::server_network;
    use crate::{Invocation, RunError};

    #[test]
    fn an_answer_is_read_or_refused() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = [0; 36];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        outcome(&answer(2, 0)).unwrap();
        let refused = outcome(&answer(2, -1)).unwrap_err();
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::PERM));
        for unclear in [&answer(16, 0)[..], &answer(2, 0)[..19], &[]] {
            outcome(unclear).unwrap_err();
        }
    }

    /// What listens on every address of it is reached from in there, and from out here by nobody.
    #[tokio::test]
    async fn a_network_is_reached_through_its_sockets_alone() {
        let Some(network) = Network::or_shared().await else {
            eprintln!("\nNOT RUN: a network namespace: {}", server_network(true));
            return;
        };
        let listening = network.socket().await.unwrap();
        listening
            .bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
            .unwrap();
        let listener = listening.listen(1).unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpStream::connect(own).unwrap_err();
        let socket = network.socket().await.unwrap();
        let both = async { tokio::try_join!(socket.connect(own), listener.accept()) };
        let (asked, (_, from)) = tokio::time::timeout(MAKING, both).await.unwrap().unwrap();
        assert_eq!(asked.local_addr().unwrap(), from);
        let listed = |folder: &Path| {
            let table = fs::read_to_string(folder.join("tcp")).unwrap();
            table.contains(&format!("00000000:{port:04X} "))
        };
        assert!(listed(network.tables()));
        assert!(!listed(Path::new("/proc/self/net")));
        let tables = network.tables().to_owned();
        drop(network);
        is_gone(&tables);
    }

    /// A program never runs in another network than its own.
    #[tokio::test]
    async fn a_program_that_cannot_enter_is_not_started() {
        let dir = tempfile::tempdir().unwrap();
        let (sockets, _asked) = channel();
        let mut invocation = Invocation::new(
            "/bin/true".into(),
            Vec::new(),
            dir.path().to_owned(),
            ANSWER,
        );
        // No namespace at all.
        invocation.network = Some(Network(Arc::new(Inner {
            namespace: File::open("/dev/null").unwrap(),
            tables: PathBuf::new(),
            sockets,
        })));
        let (lines, _inbox) = tokio::sync::mpsc::channel(1);
        let error = crate::start(&invocation, lines).await.err().unwrap();
        assert!(matches!(error, RunError::Spawn { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains("its network namespace cannot be entered"),
            "{said}"
        );
    }

    /// Its thread ends with it.
    fn is_gone(tables: &Path) {
        for _ in 0..2000 {
            if !tables.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("{} is still there", tables.display());
    }
}
