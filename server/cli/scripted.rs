//! For tests: a server of a few lines, one answer for each connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::client::{Client, Echo};

/// Runs `asking` against a server with these answers, and after them none; what came of it, and what the server was asked,
/// in lower case.
pub async fn against<T>(answers: Vec<String>, asking: impl AsyncFnOnce(Client) -> T) -> (T, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = Client::new(&format!("http://{address}"), None, None, Echo::Silent).expect("a client");
    tokio::join!(asking(client), serve(listener, answers))
}

async fn serve(listener: TcpListener, answers: Vec<String>) -> Vec<String> {
    let mut requests = Vec::new();
    for answer in answers {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut buffer = [0u8; 1024];
            match connection.read(&mut buffer).await.expect("a request") {
                0 => break,
                read => request.extend_from_slice(&buffer[..read]),
            }
        }
        requests.push(String::from_utf8_lossy(&request).to_lowercase());
        connection.write_all(answer.as_bytes()).await.expect("an answer");
    }
    requests
}

/// An answer with these headers, which breaks off where the text ends: its length is a promise not kept.
pub fn broken(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: 100000\r\n\r\n{body}")
}

pub fn whole(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
