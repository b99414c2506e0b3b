//! ZooKeeper: one server, or an ensemble.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::machine::Machine;
use crate::observe::wait_for;
use crate::ports::Port;
use crate::servers::Servers;

pub struct ZooKeeper {
    pub(crate) servers: Servers,
    clients: Vec<Port>,
    /// Kept: what the servers speak to each other through.
    _peers: Vec<[Port; 2]>,
}

impl ZooKeeper {
    /// One server.
    pub async fn start(dir: &Path) -> Result<ZooKeeper> {
        ZooKeeper::group(vec![dir.to_owned()]).await
    }

    /// As many servers as directories.
    pub(crate) async fn group(dirs: Vec<PathBuf>) -> Result<ZooKeeper> {
        let ports = |_| Ok((Port::free()?, [Port::free()?, Port::free()?]));
        let (clients, peers): (Vec<Port>, Vec<_>) =
            dirs.iter().map(ports).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let member = |(i, [peer, election]): (usize, &[Port; 2])| {
            format!("server.{}=127.0.0.1:{}:{}\n", i + 1, peer.number, election.number)
        };
        let members: String = peers.iter().enumerate().map(member).collect();
        let members = if dirs.len() == 1 { String::new() } else { members };
        let mut servers = Servers::none("zookeeper");
        let (java, class_path) = Machine::zookeeper()?;
        for (i, (dir, client)) in dirs.iter().zip(&clients).enumerate() {
            let data = dir.join("data");
            fs::create_dir_all(&data)?;
            fs::write(data.join("myid"), format!("{}\n", i + 1))?;
            // A short tick, so that sessions end when they are due, and a lost server is noticed.
            let config = format!(
                "tickTime=200\ninitLimit=50\nsyncLimit=10\nmaxSessionTimeout=120000\nmaxClientCnxns=0\n\
                 admin.enableServer=false\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n{members}",
                data.display(),
                client.number
            );
            fs::write(dir.join("zoo.cfg"), config)?;
            let mut command = Command::new(&java);
            command
                .args(["-Xms32m", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
                .args(["-Dzookeeper.4lw.commands.whitelist=*", "-cp", &class_path])
                .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
                .arg(dir.join("zoo.cfg"));
            servers.add(dir, command)?;
        }
        let mut zookeeper = ZooKeeper { servers, clients, _peers: peers };
        zookeeper.start_again().await?;
        Ok(zookeeper)
    }

    pub fn ports(&self) -> Vec<u16> {
        self.clients.iter().map(|client| client.number).collect()
    }

    /// Every server that does not run; returns when ZooKeeper answers.
    pub async fn start_again(&mut self) -> Result<()> {
        self.spawn_all()?;
        wait_for("ZooKeeper answers", Duration::from_secs(60), async || self.get("/").await.map(drop)).await
    }

    /// The server that leads the ensemble, as it says itself; one alone leads nobody and counts.
    pub async fn leader(&self) -> Result<usize> {
        for index in 0..self.servers() {
            let said = tokio::time::timeout(Duration::from_millis(500), self.word(index, "srvr")).await;
            if said.is_ok_and(|said| {
                said.is_ok_and(|text| text.contains("Mode: leader") || text.contains("Mode: standalone"))
            }) {
                return Ok(index);
            }
        }
        bail!("no ZooKeeper server that answers leads")
    }

    /// Requests that the servers have received from clients, pings of sessions among them.
    pub async fn requests(&self) -> Result<f64> {
        let mut all = 0.0;
        for index in 0..self.servers() {
            let text = self.word(index, "mntr").await?;
            let line = text.lines().find_map(|line| line.strip_prefix("zk_packets_received")).context("no counter")?;
            all += line.trim().parse::<f64>()?;
        }
        Ok(all)
    }

    /// The answer to a four letter word.
    async fn word(&self, index: usize, word: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.clients[index].address()).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// `None`: there is no such key. Past every client of ours.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let mut body = text(key);
        body.push(0);
        let (code, answer) = self.ask(4, &body).await?;
        match code {
            0 => {
                let length = answer.first_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes));
                let value = answer.get(4..4 + usize::try_from(length.max(0))?).context("a short answer")?;
                Ok(Some(value.to_vec()))
            }
            -101 => Ok(None),
            code => bail!("ZooKeeper answered {code} for {key}"),
        }
    }

    /// Of a key that exists.
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let mut body = text(key);
        body.extend(i32::try_from(value.len())?.to_be_bytes());
        body.extend(value);
        body.extend((-1i32).to_be_bytes());
        let (code, _) = self.ask(5, &body).await?;
        ensure!(code == 0, "ZooKeeper answered {code} for {key}");
        Ok(())
    }

    /// One request in a session of its own.
    async fn ask(&self, kind: i32, body: &[u8]) -> Result<(i32, Vec<u8>)> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.clients[0].address()).await?;
            // Protocol, zxid, timeout, session, password, and whether a server without a quorum would do.
            let hello = [&[0; 12][..], &4000i32.to_be_bytes(), &[0; 8], &16i32.to_be_bytes(), &[0; 16], &[0]].concat();
            send(&mut stream, &hello).await?;
            receive(&mut stream).await?;
            send(&mut stream, &[&1i32.to_be_bytes(), &kind.to_be_bytes(), body].concat()).await?;
            let answer = receive(&mut stream).await?;
            send(&mut stream, &[2i32.to_be_bytes(), (-11i32).to_be_bytes()].concat()).await?;
            let code = answer.get(12..16).context("a short answer")?;
            Ok((i32::from_be_bytes(code.try_into()?), answer[16..].to_vec()))
        };
        timeout(Duration::from_secs(5), exchange).await.context("ZooKeeper does not answer")?
    }
}

fn text(key: &str) -> Vec<u8> {
    [&u32::try_from(key.len()).unwrap_or(0).to_be_bytes()[..], key.as_bytes()].concat()
}

async fn send(stream: &mut TcpStream, frame: &[u8]) -> Result<()> {
    let length = u32::try_from(frame.len())?.to_be_bytes();
    Ok(stream.write_all(&[&length, frame].concat()).await?)
}

async fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut frame = vec![0; usize::try_from(stream.read_u32().await?)?];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn starts_writes_and_reads() {
        let dir = tempfile::tempdir().unwrap();
        let mut zookeeper = ZooKeeper::start(dir.path()).await.unwrap();
        zookeeper.put("/zookeeper", b"a").await.unwrap();
        assert_eq!(zookeeper.get("/zookeeper").await.unwrap().as_deref(), Some(&b"a"[..]));
        assert_eq!(zookeeper.get("/b").await.unwrap(), None);
        zookeeper.kill();
        zookeeper.start_again().await.unwrap();
        assert_eq!(zookeeper.get("/zookeeper").await.unwrap().as_deref(), Some(&b"a"[..]));
    }
}
