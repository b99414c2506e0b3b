//! Whether the postmaster takes new connections, asked for nothing else.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Result;
use crate::instance::Instance;
use crate::sql::{Endpoint, open};

/// GSSENCRequest: answered with one byte by the child that the postmaster starts for the connection, however many
/// sessions there are, before it asks who is there, and nothing is logged when the client then leaves. (Asking for TLS
/// where it is configured would log a handshake that failed.)
const ASK: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// The addresses a server listens on, looked up once: a later look could wait for a dead disk.
#[derive(Clone, Debug)]
pub struct Doors(Vec<Endpoint>);

impl Instance {
    pub async fn doors(&self) -> Result<Doors> {
        Ok(Doors(self.endpoints().await?))
    }
}

impl Doors {
    /// `true` once a new connection was answered; `false`: nobody listens. A postmaster that stands still lets the
    /// kernel accept connections and answers none: then this does not return.
    pub async fn answer(&self) -> bool {
        for door in &self.0 {
            match greet(door).await {
                Ok(()) => return true,
                // The queue of a Unix socket is full: somebody listens and takes nobody in.
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => std::future::pending().await,
                Err(_) => {}
            }
        }
        false
    }
}

async fn greet(to: &Endpoint) -> std::io::Result<()> {
    let (mut stream, _) = open(to).await?;
    stream.write_all(&ASK).await?;
    // Whatever it is: also a refusal is an answer.
    stream.read_u8().await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, UnixListener};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn who_listens_and_does_not_answer_is_told_from_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Endpoint::Socket { dir: dir.path().to_owned(), port: 5432 };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tcp = Endpoint::Tcp { host: "127.0.0.1".into(), port };
        let doors = Doors(vec![socket.clone(), tcp]);
        // No socket, and a server that takes connections without ever answering.
        timeout(Duration::from_millis(200), doors.answer()).await.unwrap_err();
        let serve = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 8];
                if stream.read_exact(&mut asked).await.is_ok() && asked == ASK {
                    let _ = stream.write_all(b"N").await;
                }
            }
        });
        assert!(timeout(SOON, doors.answer()).await.unwrap());
        serve.abort();
        let _ = serve.await;
        assert!(!timeout(SOON, doors.answer()).await.unwrap());

        // A frozen server's queue fills up.
        let queue = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        rustix::net::listen(&queue, 1).unwrap();
        let doors = Doors(vec![socket]);
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let doors = doors.clone();
                tokio::spawn(async move { doors.answer().await })
            })
            .collect();
        timeout(Duration::from_millis(200), doors.answer()).await.unwrap_err();
        assert!(waiting.iter().all(|w| !w.is_finished()));
    }
}
