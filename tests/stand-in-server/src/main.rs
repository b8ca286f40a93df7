//! Stands in for a native server: loads, answers, and behaves as badly as its options say.
//!
//! Listens on the last argument, `HOST:PORT`. Without one it does its one piece of work as a command: loads, prints, ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::zombie_processes,
    reason = "a stand-in may break; the tests are about who looks after it"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

const HELP: &str = "usage: stand-in [OPTIONS] [HOST:PORT]
  --load-ms N     answer 503 on /health for so long
  --die-after N   end with code 9 instead of the N-th answer under /v1
  --exit N        end with this code before listening
  --never-ready   answer 503 on /health for ever
  --absent WHEN   answer 404 on /health: `loading` until it has loaded, `always` for ever, `partly` every other time
  --silent        accept and answer nothing
  --wrong-port    listen on another port
  --open          listen for other machines too
  --deaf          answer 409 to /v1/cancel and go on
  --taken FILE    the first time, find the port taken by somebody else and end with code 0; FILE says which it was, and who
                  was asked there
  --lost FILE     the first time, lose it to somebody else while it is asked whether it is ready, and end with code 0
  --shared FILE   the first time, share the port with somebody else who came first; FILE says that it was
  --model FILE    what /v1/model answers
";

#[derive(Default)]
struct Options {
    load: u64,
    die_after: u64,
    exit: Option<i32>,
    never_ready: bool,
    absent: Option<String>,
    silent: bool,
    wrong_port: bool,
    open: bool,
    deaf: bool,
    taken: Option<String>,
    lost: Option<String>,
    shared: Option<String>,
    stranger: Option<String>,
    model: Option<String>,
    at: Option<String>,
}

struct State {
    options: Options,
    started: Instant,
    answers: AtomicU64,
    polls: AtomicU64,
    cancels: AtomicU64,
    looks: AtomicU64,
}

fn main() {
    let options = options();
    if let Some(code) = options.exit {
        eprintln!("cannot load: exit was asked for");
        exit(code);
    }
    let Some(at) = options.at.clone() else {
        thread::sleep(Duration::from_millis(options.load));
        println!("worked");
        return;
    };
    if let Some(note) = &options.stranger {
        stranger(&at, note);
        return;
    }
    let notes = [&options.taken, &options.lost, &options.shared];
    if let Some(note) = notes.into_iter().flatten().next()
        && !Path::new(note).exists()
    {
        // Whoever asks waits for an answer on the connection, and so looks at the port no more before the end is told.
        let asks = options.lost.as_ref().map(|_| asked_once(&at));
        let _stranger = somebody_else(&at, note, asks);
        if options.shared.is_none() {
            eprintln!("listening");
            return;
        }
    }
    let (_, port) = at.rsplit_once(':').expect("HOST:PORT");
    let at = match (options.wrong_port, options.open) {
        (true, _) => "127.0.0.1:0".to_owned(),
        (_, true) => format!("0.0.0.0:{port}"),
        _ => at,
    };
    let listener = if options.shared.is_some() {
        sharing(&at)
    } else {
        TcpListener::bind(at).expect("a port")
    };
    eprintln!("listening");
    let state = Arc::new(State {
        options,
        started: Instant::now(),
        answers: AtomicU64::new(0),
        polls: AtomicU64::new(0),
        cancels: AtomicU64::new(0),
        looks: AtomicU64::new(0),
    });
    for stream in listener.incoming().flatten() {
        let state = state.clone();
        thread::spawn(move || serve(&stream, &state));
    }
}

/// A process of nobody's: neither of our group nor with anything in its environment by which it could be known for ours.
/// It keeps a connection open, where it is given one.
fn somebody_else(at: &str, note: &str, open: Option<TcpStream>) -> Child {
    let open = open.map_or_else(Stdio::null, |stream| OwnedFd::from(stream).into());
    let child = Command::new(std::env::current_exe().expect("a path"))
        .args(["--stranger", note, at])
        .env_clear()
        .process_group(0)
        .stdin(open)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("somebody else");
    while !Path::new(note).exists() {
        thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Listens until somebody asks; gives the connection, its request unanswered.
fn asked_once(at: &str) -> TcpStream {
    sharing(at).accept().expect("somebody who asks").0
}

/// Listens, writes where into the note, and takes what comes for its own until the note is gone, or a minute over.
fn stranger(at: &str, note: &str) {
    let listener = sharing(at);
    std::fs::write(note, at).expect("a note");
    let told = note.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::fs::write(&told, "the stranger was asked").expect("a note");
            answer(&stream, "200 OK", "", b"a stranger");
        }
    });
    let began = Instant::now();
    while Path::new(note).exists() && began.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(20));
    }
}

/// A port that others may have too, if they say the same.
fn sharing(at: &str) -> TcpListener {
    let address: SocketAddr = at.parse().expect("HOST:PORT");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("an option");
    socket.bind(&address.into()).expect("a port");
    socket.listen(16).expect("a listening socket");
    socket.into()
}

fn options() -> Options {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("a value");
        match word.as_str() {
            "--help" => {
                print!("{HELP}");
                exit(0);
            }
            "--load-ms" => options.load = value().parse().expect("a number"),
            "--die-after" => options.die_after = value().parse().expect("a number"),
            "--exit" => options.exit = Some(value().parse().expect("a number")),
            "--never-ready" => options.never_ready = true,
            "--absent" => options.absent = Some(value()),
            "--silent" => options.silent = true,
            "--wrong-port" => options.wrong_port = true,
            "--open" => options.open = true,
            "--deaf" => options.deaf = true,
            "--taken" => options.taken = Some(value()),
            "--lost" => options.lost = Some(value()),
            "--shared" => options.shared = Some(value()),
            "--stranger" => options.stranger = Some(value()),
            "--model" => options.model = Some(value()),
            _ if word.starts_with('-') => {
                eprintln!("error: unknown argument: {word}");
                exit(1);
            }
            _ => options.at = Some(word),
        }
    }
    options
}

fn serve(stream: &TcpStream, state: &State) {
    let Some((head, target)) = read(stream) else {
        return;
    };
    if state.options.silent {
        thread::sleep(Duration::from_secs(3600));
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let number = query
        .rsplit('=')
        .next()
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(0);
    if path == "/health" {
        let loading = state.started.elapsed() < Duration::from_millis(state.options.load);
        let absent = match state.options.absent.as_deref() {
            Some("loading") => loading,
            Some("partly") => state.looks.fetch_add(1, SeqCst).is_multiple_of(2),
            Some(_) => true,
            None => false,
        };
        let status = if absent {
            "404 Not Found"
        } else if loading || state.options.never_ready {
            "503 Loading"
        } else {
            "200 OK"
        };
        return answer(stream, status, "", b"{}");
    }
    if state.answers.fetch_add(1, SeqCst) + 1 == state.options.die_after {
        eprintln!("out of luck");
        exit(9);
    }
    match path {
        "/v1/pid" => answer(
            stream,
            "200 OK",
            "",
            format!("{{\"pid\":{}}}", std::process::id()).as_bytes(),
        ),
        "/v1/echo" => answer(stream, "200 OK", "X-Echo: yes\r\n", head.as_bytes()),
        "/v1/model" => {
            let model = std::fs::read(state.options.model.as_deref().unwrap_or_default());
            answer(
                stream,
                "200 OK",
                "",
                &model.unwrap_or_else(|error| error.to_string().into_bytes()),
            );
        }
        "/v1/connect" => told(
            stream,
            TcpStream::connect(("127.0.0.1", port(number))).map(drop),
        ),
        "/v1/udp" => told(
            stream,
            UdpSocket::bind("127.0.0.1:0")
                .and_then(|socket| socket.send_to(b"x", ("127.0.0.1", port(number))))
                .map(drop),
        ),
        "/v1/listen" => told(stream, TcpListener::bind("127.0.0.1:0").map(drop)),
        // Without an address: the system gives a port of every one.
        "/v1/open" => {
            let listens = TcpListener::bind("0.0.0.0:0");
            told(stream, listens.map(std::mem::forget));
        }
        "/v1/passwd" => told(stream, std::fs::read("/etc/passwd").map(drop)),
        "/v1/work" => work(stream, state, number),
        "/v1/cancel" if state.options.deaf => answer(stream, "409 Conflict", "", b"no"),
        "/v1/cancel" => {
            state.cancels.fetch_add(1, SeqCst);
            answer(stream, "200 OK", "", b"{}");
        }
        "/v1/poll" => {
            let polls = state.polls.fetch_add(1, SeqCst);
            let word = if polls < 2 { "pending" } else { "done" };
            answer(
                stream,
                "200 OK",
                "",
                format!("{{\"job\":{{\"state\":\"{word}\"}},\"polls\":{polls}}}").as_bytes(),
            );
        }
        "/v1/big" => answer(
            stream,
            "200 OK",
            "",
            &vec![b'x'; usize::try_from(number).unwrap()],
        ),
        "/v1/garbage" => drop((&mut &*stream).write_all(b"nonsense\r\n\r\n")),
        "/v1/short" => {
            drop((&mut &*stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"))
        }
        "/v1/redirect" => answer(stream, "302 Found", "Location: /admin\r\n", b""),
        "/admin" => answer(stream, "200 OK", "", b"secret"),
        _ => answer(stream, "404 Not Found", "", b""),
    }
}

/// What came of a deed.
fn told(stream: &TcpStream, deed: std::io::Result<()>) {
    let word = deed.map_or_else(|error| format!("refused: {error}"), |()| "did".to_owned());
    answer(stream, "200 OK", "", word.as_bytes());
}

fn port(number: u64) -> u16 {
    u16::try_from(number).expect("a port")
}

/// Works for so long, or until it is cancelled; tells how far it is.
fn work(stream: &TcpStream, state: &State, milliseconds: u64) {
    let (began, cancels) = (Instant::now(), state.cancels.load(SeqCst));
    let time = Duration::from_millis(milliseconds);
    eprintln!("progress 1/2");
    while began.elapsed() < time && state.cancels.load(SeqCst) == cancels {
        thread::sleep(Duration::from_millis(5).min(time));
    }
    eprintln!("progress 2/2");
    answer(stream, "200 OK", "", b"{\"worked\":true}");
}

/// The head of a request and its target; the body is read and left.
fn read(stream: &TcpStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    let target = head.split(' ').nth(1)?.to_owned();
    Some((head, target))
}

fn answer(mut stream: &TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // Whoever asked may be gone.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
}
