//! A link of limited speed to a peer: what makes the middle of a download long enough to be hit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One piece of every connection takes this long.
const TICK: Duration = Duration::from_millis(10);

/// A proxy on loopback that hands on what the peer says no faster than it is allowed.
#[derive(Clone)]
pub struct SlowLink {
    pub address: SocketAddr,
    carried: Arc<AtomicU64>,
    bytes_per_tick: Arc<AtomicU64>,
}

impl SlowLink {
    pub async fn to(peer: SocketAddr, bytes_per_second: u64) -> SlowLink {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let bytes_per_tick = Arc::new(AtomicU64::new(bytes_per_second / 100));
        let link = SlowLink { address, carried: Arc::default(), bytes_per_tick };
        let accepting = link.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let link = accepting.clone();
                tokio::spawn(async move { link.carry(client, peer).await });
            }
        });
        link
    }

    /// Bytes that the peer has sent through it so far.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::SeqCst)
    }

    pub fn be_fast(&self) {
        self.bytes_per_tick.store(u64::MAX, Ordering::SeqCst);
    }

    async fn carry(&self, client: TcpStream, peer: SocketAddr) {
        let Ok(server) = TcpStream::connect(peer).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let asking = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let mut buffer = vec![0; 256 << 10];
        loop {
            let allowed = self.bytes_per_tick.load(Ordering::SeqCst);
            let most = usize::try_from(allowed).unwrap_or(usize::MAX).min(buffer.len());
            let Ok(read @ 1..) = from_server.read(&mut buffer[..most]).await else { break };
            if to_client.write_all(&buffer[..read]).await.is_err() {
                break;
            }
            self.carried.fetch_add(read as u64, Ordering::SeqCst);
            if allowed < u64::MAX {
                tokio::time::sleep(TICK).await;
            }
        }
        asking.abort();
    }
}
