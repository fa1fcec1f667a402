//! A proxy on the way to a server, for tests of what a network does: silence, a trickle, a cut, an answer that is lost.
//!
//! It knows nothing of what passes, save that it can look for a text in requests. Connections are threads; they end when their ends do.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What becomes of the bytes. Each new setting holds for all connections from their next byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All of them pass.
    Open,
    /// Connections are taken, and nothing that is sent over them is ever read: half open.
    Deaf,
    /// The server's answers come one byte a second.
    Trickle,
    /// Each connection ends after so many bytes of answers.
    Cut(usize),
    /// After so many bytes of answers nothing more comes, and nothing ends.
    Stall(usize),
    /// The next request with this text reaches the server, and its answer is lost: nothing more comes over its connection.
    Lose(&'static str),
    /// Each text in answers becomes another of the same length, where both stand in one piece.
    Forge(&'static str, &'static str),
}

/// A running proxy. Dropped, it takes no more connections.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    way: Mutex<Way>,
    is_over: AtomicBool,
    connections: AtomicUsize,
}

impl Shared {
    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// A proxy to what listens on a port of this machine.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared { way: Mutex::new(Way::Open), is_over: AtomicBool::new(false), connections: AtomicUsize::new(0) });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                accepting.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || carry(client, SocketAddr::from(([127, 0, 0, 1], to)), &shared));
            }
        });
        Self { port, shared }
    }

    /// What clients are given in place of the server.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        *self.shared.way() = way;
    }

    /// The way as it is: `Lose` turns into `Open` when it has met its request.
    pub fn way(&self) -> Way {
        *self.shared.way()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes who waits for a connection.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
    }
}

fn carry(client: TcpStream, to: SocketAddr, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(to) else { return };
    let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
    let lost = Arc::new(AtomicBool::new(false));
    let (asking, losing) = (Arc::clone(shared), Arc::clone(&lost));
    std::thread::spawn(move || requests(from_client, to_server, &asking, &losing));
    answers(server, client, shared, &lost);
}

/// Where nothing is to pass: waits for another way, or for the proxy's end.
fn wait_while(shared: &Shared, holds: impl Fn(Way) -> bool) {
    while holds(*shared.way()) && !shared.is_over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn requests(mut client: TcpStream, mut server: TcpStream, shared: &Shared, lost: &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    loop {
        wait_while(shared, |way| way == Way::Deaf);
        let Ok(read @ 1..) = client.read(&mut buffer) else { break };
        wait_while(shared, |way| way == Way::Deaf);
        let mut way = shared.way();
        if let Way::Lose(text) = *way
            && buffer[..read].windows(text.len()).any(|window| window == text.as_bytes())
        {
            *way = Way::Open;
            lost.store(true, Ordering::Relaxed);
        }
        drop(way);
        if server.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    server.shutdown(Shutdown::Write).ok();
}

fn answers(mut server: TcpStream, mut client: TcpStream, shared: &Shared, lost: &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    let mut passed = 0;
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        if let Way::Forge(text, other) = *shared.way() {
            while let Some(at) = buffer[..read].windows(text.len()).position(|window| window == text.as_bytes()) {
                buffer[at..at + text.len()].copy_from_slice(other.as_bytes());
            }
        }
        let mut left = &buffer[..read];
        while !left.is_empty() {
            let way = *shared.way();
            if lost.load(Ordering::Relaxed) || shared.is_over.load(Ordering::Relaxed) {
                break;
            }
            let (now, pause) = match way {
                Way::Open | Way::Lose(_) | Way::Forge(..) => (left.len(), None),
                Way::Trickle => (1, Some(Duration::from_secs(1))),
                Way::Cut(most) if passed >= most => {
                    client.shutdown(Shutdown::Both).ok();
                    server.shutdown(Shutdown::Both).ok();
                    return;
                }
                Way::Cut(most) => (left.len().min(most - passed), None),
                Way::Stall(most) if passed < most => (left.len().min(most - passed), None),
                Way::Stall(_) | Way::Deaf => (0, Some(Duration::from_millis(10))),
            };
            if client.write_all(&left[..now]).is_err() {
                return;
            }
            passed += now;
            left = &left[now..];
            if let Some(pause) = pause {
                std::thread::sleep(pause);
            }
        }
    }
    if !lost.load(Ordering::Relaxed) {
        client.shutdown(Shutdown::Both).ok();
    }
}
