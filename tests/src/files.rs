//! A server of files on loopback, for models and input pictures.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Default)]
struct Shelf {
    files: Mutex<HashMap<String, (u16, Bytes)>>,
    asked: Mutex<Vec<String>>,
    /// Names whose answer waits.
    held: Mutex<HashMap<String, watch::Sender<bool>>>,
}

/// The server.
pub struct FileServer {
    address: SocketAddr,
    shelf: Arc<Shelf>,
    server: JoinHandle<()>,
}

impl FileServer {
    /// Starts one without files.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("a port");
        let shelf = Arc::new(Shelf::default());
        let app = Router::new()
            .route("/{name}", get(serve))
            .with_state(shelf.clone());
        let server =
            tokio::spawn(async move { axum::serve(listener, app).await.expect("serving") });
        Self {
            address,
            shelf,
            server,
        }
    }

    /// Puts a file up; gives its URL.
    pub fn put(&self, name: &str, content: impl Into<Bytes>) -> String {
        self.answer(name, 200, content)
    }

    /// Has a name answered with a status.
    pub fn answer(&self, name: &str, status: u16, content: impl Into<Bytes>) -> String {
        let mut files = self.shelf.files.lock().expect("no test panics here");
        // A query is no part of a file's name.
        let file = name.split('?').next().unwrap_or(name);
        files.insert(file.to_owned(), (status, content.into()));
        format!("http://{}/{name}", self.address)
    }

    /// Puts a file up whose answer waits for [`FileServer::release`].
    pub fn hold(&self, name: &str, content: impl Into<Bytes>) -> String {
        let mut held = self.shelf.held.lock().expect("no test panics here");
        held.insert(name.to_owned(), watch::Sender::new(false));
        self.put(name, content)
    }

    /// Lets the answers of a held name go.
    pub fn release(&self, name: &str) {
        let held = self.shelf.held.lock().expect("no test panics here");
        held[name].send_replace(true);
    }

    /// How often a name was asked for.
    pub fn asked(&self, name: &str) -> usize {
        let asked = self.shelf.asked.lock().expect("no test panics here");
        asked.iter().filter(|one| *one == name).count()
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(State(shelf): State<Arc<Shelf>>, Path(name): Path<String>) -> Response {
    shelf
        .asked
        .lock()
        .expect("no test panics here")
        .push(name.clone());
    let held = {
        let held = shelf.held.lock().expect("no test panics here");
        held.get(&name).map(watch::Sender::subscribe)
    };
    if let Some(mut held) = held {
        let _ = held.wait_for(|released| *released).await;
    }
    let found = shelf
        .files
        .lock()
        .expect("no test panics here")
        .get(&name)
        .cloned();
    match found {
        Some((status, content)) => {
            (StatusCode::from_u16(status).expect("a status"), content).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
