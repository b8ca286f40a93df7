//! A server that answers as it is told, broken answers included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server does once it has sent its answer.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// Ends the connection.
    Close,
    /// Keeps it open, silent.
    Hang,
    /// Sends a byte now and then, for ever.
    Drip,
}

pub(crate) type Answer = (String, Then);

/// A server that answers each path with its answers in order, the last one again and again.
pub(crate) struct Server {
    pub(crate) base: String,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) async fn start(answers: Vec<(&str, Vec<Answer>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let answers: HashMap<String, Vec<Answer>> = answers
            .into_iter()
            .map(|(path, list)| (path.to_owned(), list))
            .collect();
        let answers = Arc::new(answers);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, Arc::clone(&answers), Arc::clone(&seen)));
            }
        });
        Self { base, requests }
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

async fn serve(
    mut socket: TcpStream,
    answers: Arc<HashMap<String, Vec<Answer>>>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if socket.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head
        .split(' ')
        .nth(1)
        .unwrap()
        .split('?')
        .next()
        .unwrap()
        .to_owned();
    let nth = {
        let mut seen = seen.lock().unwrap();
        seen.push(head);
        seen.iter()
            .filter(|head| head.starts_with(&format!("GET {path}")))
            .count()
            - 1
    };
    let list = answers.get(&path).expect("a path that the test knows");
    let (text, then) = list.get(nth).or(list.last()).unwrap().clone();
    let _ = socket.write_all(text.as_bytes()).await;
    match then {
        Then::Close => {
            let _ = socket.shutdown().await;
        }
        Then::Hang => std::future::pending().await,
        Then::Drip => {
            while socket.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

pub(crate) fn ok(body: &str) -> Answer {
    (
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nContent-Type: image/png\r\n\r\n{body}",
            body.len()
        ),
        Then::Close,
    )
}

pub(crate) fn status(line: &str) -> Answer {
    (
        format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n"),
        Then::Close,
    )
}

pub(crate) fn redirect(to: &str) -> Answer {
    (
        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"),
        Then::Close,
    )
}
