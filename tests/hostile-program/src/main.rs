//! Tries what a program must not do, and says what came of it.
//!
//! `stand-in DEED [ARGUMENT]…`; the last line of standard output is `did` or `refused: WHY`. Deeds that are not about
//! being refused end as they say.

mod shared;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words == ["--help"] {
        help();
        return ExitCode::SUCCESS;
    }
    match deed(&words) {
        Ok(()) => println!("did"),
        Err(error) => println!("refused: {error}"),
    }
    ExitCode::SUCCESS
}

/// Says how it is used, and what came of the deeds that the file beside it lists, one a line.
fn help() {
    println!("usage: stand-in DEED [ARGUMENT]...");
    let list = std::env::current_exe().map(|path| path.with_extension("help"));
    for line in list
        .and_then(fs::read_to_string)
        .unwrap_or_default()
        .lines()
    {
        let words: Vec<&str> = line.split(' ').collect();
        match deed(&words) {
            Ok(()) => println!("{line}: did"),
            Err(error) => println!("{line}: refused: {error}"),
        }
    }
}

fn deed(words: &[&str]) -> io::Result<()> {
    match words {
        ["abort"] => std::process::abort(),
        ["nothing", ..] => Ok(()),
        // A shell does whatever else a program can do.
        ["shell", script] => Err(Command::new("/bin/sh").args(["-c", script]).exec()),
        ["fill", path, mib] => fill(Path::new(path), number(mib)),
        ["hole", path, mib] => File::create(path).and_then(|file| file.set_len(number(mib) << 20)),
        ["many", folder, mib] => many(Path::new(folder), number(mib)),
        ["nameless", path, mib] => nameless(Path::new(path), number(mib)),
        ["hold", mib] => hold(number(mib)),
        ["read", path] => fs::read(path).map(|bytes| println!("{} bytes", bytes.len())),
        ["read-by-link", path] => std::os::unix::fs::symlink(path, "link-of-its-own")
            .and_then(|()| fs::read("link-of-its-own"))
            .map(drop),
        // A second name of the same file would outlive the sandbox.
        ["name-anew", path] => fs::hard_link(path, "name-of-its-own"),
        ["list", path] => fs::read_dir(path).map(|entries| println!("{} entries", entries.count())),
        ["write", path] => OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(b"x")),
        ["cut", path] => OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)
            .map(drop),
        ["remove", path] => fs::remove_file(path),
        ["mode", path] => fs::set_permissions(path, fs::Permissions::from_mode(0o777)),
        ["execute", path] => Command::new(path).arg("--help").status().map(drop),
        ["tcp", address] => TcpStream::connect(address).and_then(|mut to| to.write_all(b"x")),
        ["tcp-listen"] => TcpListener::bind("127.0.0.1:0").map(drop),
        ["udp", address] => {
            UdpSocket::bind("127.0.0.1:0").and_then(|from| from.send_to(b"x", address).map(drop))
        }
        ["abstract", name] => abstract_socket(name),
        ["socket", path] => UnixStream::connect(path).and_then(|mut to| to.write_all(b"x")),
        ["pair-to", path] => {
            UnixDatagram::pair().and_then(|(from, _other)| from.send_to(b"x", path).map(drop))
        }
        ["made", kind] => shared::made(kind),
        ["segment"] => shared::segment().map(|id| println!("{id}")),
        ["attached", id] => shared::attached(id.parse().unwrap_or(-1)),
        ["removed", id] => shared::removed(id.parse().unwrap_or(-1)),
        ["many-tasks", processes, threads] => many_tasks(number(processes), threads),
        ["many-threads", threads] => many_threads(number(threads)),
        ["slowed", call, process] => shared::slowed(call, process.parse().unwrap_or(-1)),
        // It can still write into such a folder, but nobody can list it.
        ["shut", mib] => {
            DirBuilder::new().mode(0o300).create("shut")?;
            many(Path::new("shut"), number(mib))
        }
        ["bury", mib] => bury(number(mib)),
        ["bury-shut", mib] => {
            bury_folders()?;
            DirBuilder::new().mode(0o300).create("shut")?;
            many(Path::new("shut"), number(mib))
        }
        ["pair"] => UnixStream::pair().and_then(|(mut from, _to)| from.write_all(b"x")),
        _ => Err(io::Error::other("no such deed")),
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(1)
}

/// Real bytes, in one file.
fn fill(path: &Path, mib: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let block = vec![7; 1 << 20];
    for _ in 0..mib {
        file.write_all(&block)?;
    }
    Ok(())
}

/// Many files of 4 MiB, each small enough, until it is ended.
fn many(folder: &Path, mib: u64) -> io::Result<()> {
    for number in 0..mib / 4 {
        fill(&folder.join(format!("part-{number}")), 4)?;
    }
    wait_for_ever()
}

/// Files below more folders than a path has room for.
fn bury(mib: u64) -> io::Result<()> {
    bury_folders()?;
    many(Path::new("."), mib)
}

fn bury_folders() -> io::Result<()> {
    let name = "d".repeat(200);
    for _ in 0..25 {
        fs::create_dir(&name)?;
        std::env::set_current_dir(&name)?;
    }
    Ok(())
}

/// Files without a name, so that nobody sees them in a folder.
fn nameless(path: &Path, mib: u64) -> io::Result<()> {
    let block = vec![7; 1 << 20];
    let mut held = Vec::new();
    for _ in 0..mib {
        let file = File::create(path)?;
        fs::remove_file(path)?;
        file.write_all_at(&block, 0)?;
        held.push(file);
    }
    wait_for_ever()
}

/// Processes with threads of their own, that wait until they are ended.
fn many_tasks(processes: u64, threads: &str) -> io::Result<()> {
    let own = std::env::current_exe()?;
    let mut children = Vec::new();
    for _ in 0..processes {
        let mut child = Command::new(&own);
        child.args(["many-threads", threads]);
        children.push(child.stdout(std::process::Stdio::null()).spawn()?);
    }
    wait_for_ever()
}

fn many_threads(threads: u64) -> io::Result<()> {
    for _ in 0..threads {
        let small = std::thread::Builder::new().stack_size(16 << 10);
        small.spawn(wait_for_ever)?;
    }
    wait_for_ever()
}

fn hold(mib: u64) -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..mib {
        // Written, or the system would not give it.
        held.push(vec![7_u8; 1 << 20]);
    }
    println!("holding {} MiB", held.len());
    wait_for_ever()
}

fn wait_for_ever() -> io::Result<()> {
    loop {
        std::thread::park();
    }
}

#[cfg(target_os = "linux")]
fn abstract_socket(name: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    UnixStream::connect_addr(&address)?.write_all(b"x")
}

#[cfg(not(target_os = "linux"))]
fn abstract_socket(_name: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
