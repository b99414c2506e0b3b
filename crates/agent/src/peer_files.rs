//! The client for the other members, and when the certificate it calls them with was exchanged: the files of `ctl`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use surus_config::{Ctl, LocalConfig};
use tokio::sync::{Notify, watch};

use crate::files::Watched;

pub struct PeerFiles {
    files: watch::Sender<Vec<PathBuf>>,
    exchanged: Arc<Notify>,
}

impl PeerFiles {
    /// Goes on until this is dropped.
    pub fn start(ctl: &Ctl) -> PeerFiles {
        let (files, mut named) = watch::channel(named(ctl));
        let exchanged = Arc::<Notify>::default();
        let tell = exchanged.clone();
        tokio::spawn(async move {
            let mut known: Option<(Vec<PathBuf>, u64)> = None;
            loop {
                let files = named.borrow_and_update().clone();
                if files.is_empty() {
                    if named.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                let before = match known.take().filter(|(of, _)| *of == files) {
                    Some((_, contents)) => contents,
                    None => contents(&files).await,
                };
                let watched = Watched::on(files.clone()).await;
                // Whoever names files reads them, and may have done so before they were under watch.
                let mut now = contents(&files).await;
                while now == before {
                    tokio::select! {
                        () = watched.touched() => now = contents(&files).await,
                        changed = named.changed() => match changed {
                            Ok(()) => break,
                            Err(_) => return,
                        },
                    }
                }
                if now != before {
                    tell.notify_one();
                }
                known = Some((files, now));
            }
        });
        PeerFiles { files, exchanged }
    }

    pub fn set(&self, ctl: &Ctl) {
        self.files.send_if_modified(|files| {
            let named = named(ctl);
            let differ = *files != named;
            *files = named;
            differ
        });
    }

    pub async fn exchanged(&self) {
        self.exchanged.notified().await;
    }
}

pub fn client(config: &LocalConfig) -> anyhow::Result<surus_api::Client> {
    let ctl = &config.ctl;
    let options = surus_api::ClientOptions {
        authentication: ctl
            .authentication
            .as_ref()
            .map(|a| surus_api::Credentials { username: a.username.clone(), password: a.password.expose().to_owned() }),
        // Members verify each other only when they are given certificates to do it with.
        insecure: true,
        cacert: ctl.cacert.clone(),
        certfile: ctl.certfile.clone(),
        keyfile: ctl.keyfile.clone(),
    };
    surus_api::Client::new(&options).context("ctl")
}

fn named(ctl: &Ctl) -> Vec<PathBuf> {
    [&ctl.cacert, &ctl.certfile, &ctl.keyfile].into_iter().flatten().cloned().collect()
}

async fn contents(files: &[PathBuf]) -> u64 {
    let files = files.to_vec();
    let read = move || {
        let mut hasher = DefaultHasher::new();
        files.iter().for_each(|file| std::fs::read(file).ok().hash(&mut hasher));
        hasher.finish()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn an_exchange_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| Some(dir.path().join(name));
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.pem", "1");
        write("b.pem", "1");
        let files = PeerFiles::start(&Ctl::default());
        files.set(&Ctl { certfile: file("a.pem"), ..Ctl::default() });
        let exchanged = async |name: &str, text: &str| {
            // Written again and again: the first time may be before it is under watch.
            for n in 0.. {
                write(name, &format!("{text}{n}"));
                if timeout(Duration::from_secs(2), files.exchanged()).await.is_ok() {
                    return;
                }
                assert!(n < 10, "{name} is not watched");
            }
        };
        exchanged("a.pem", "2").await;
        files.set(&Ctl { certfile: file("b.pem"), ..Ctl::default() });
        exchanged("b.pem", "2").await;
        assert_eq!(files.exchanged().now_or_never(), None);
    }
}
