//! Notices that a file may have come to be another one, wherever on the way to it: written anew, renamed into its place,
//! or behind a symbolic link that points elsewhere now, as secrets of Kubernetes are exchanged.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use crate::timer::readable;

/// A loop of links ends, as it does for the kernel.
const LINKS: usize = 40;

/// A certificate and its key are two files: after one has changed, the other has this time before both are looked at.
const SETTLE: Duration = Duration::from_millis(500);
/// Other machines' writes to a shared file system, and directories that cannot be watched, are seen at this interval.
const LOOK: Duration = Duration::from_secs(60);

/// Some files that were there as one, under watch. What changed before the watch was there is the caller's to look for.
pub struct Watched(Option<Watch>);

impl Watched {
    pub async fn on(files: Vec<PathBuf>) -> Watched {
        let on = move || Watch::on(&files.iter().flat_map(|path| places(path)).collect::<Vec<_>>()).ok();
        Watched(tokio::task::spawn_blocking(on).await.ok().flatten())
    }

    /// When it is time to look at them again.
    pub async fn touched(&self) {
        let touched = async {
            match &self.0 {
                Some(watch) => watch.touched().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = touched => sleep(SETTLE).await,
            () = sleep(LOOK) => {}
        }
    }
}

struct Watch {
    events: AsyncFd<OwnedFd>,
    /// Names that matter, with the descriptor of the watch on their directory.
    names: Vec<(i32, OsString)>,
}

impl Watch {
    /// Directories that cannot be watched are left out.
    fn on(places: &[(PathBuf, OsString)]) -> io::Result<Watch> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let what = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let names = places
            .iter()
            .filter_map(|(dir, name)| Some((inotify::add_watch(&fd, dir.as_path(), what).ok()?, name.clone())))
            .collect();
        Ok(Watch { events: readable(fd)?, names })
    }

    /// Returns once something happened to one of the names. Much else may happen in their directories.
    async fn touched(&self) {
        loop {
            let Ok(mut ready) = self.events.readable().await else { return std::future::pending().await };
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
            let mut touched = false;
            loop {
                match reader.next() {
                    Ok(event) => touched |= self.matters(&event),
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            if touched {
                return;
            }
            ready.clear_ready();
        }
    }

    fn matters(&self, event: &inotify::Event<'_>) -> bool {
        // Some of the events are lost, or the directory itself is gone.
        if event.events().intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED) {
            return true;
        }
        let Some(name) = event.file_name() else { return false };
        self.names.iter().any(|(wd, known)| *wd == event.wd() && known.as_bytes() == name.to_bytes())
    }
}

/// The names on the way to a file that can come to mean something else, each with its directory: the symbolic links, and
/// the file itself.
fn places(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut found = Vec::new();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut at = PathBuf::from("/");
    let mut ahead = names(&path);
    while let Some(name) = ahead.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let here = at.join(&name);
        match fs::read_link(&here) {
            Ok(target) if found.len() < LINKS => {
                found.push((at.clone(), name));
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                ahead.extend(names(&target));
            }
            _ => {
                if ahead.is_empty() {
                    found.push((at.clone(), name));
                }
                at = here;
            }
        }
    }
    found
}

/// The last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
    let mut names: Vec<OsString> = names.map(|c| c.as_os_str().to_owned()).collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    fn secret(dir: &Path, version: &str) {
        fs::create_dir(dir.join(version)).unwrap();
        fs::write(dir.join(version).join("tls.crt"), version).unwrap();
    }

    /// As the kubelet does it: the new directory first, then one rename.
    fn point(dir: &Path, version: &str) {
        symlink(version, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    }

    #[test]
    fn every_link_on_the_way_is_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        secret(&dir, "..v1");
        point(&dir, "..v1");
        symlink("..data/tls.crt", dir.join("tls.crt")).unwrap();
        let found = places(&dir.join("sub/../tls.crt"));
        let want = [(dir.clone(), "tls.crt"), (dir.clone(), "..data"), (dir.join("..v1"), "tls.crt")];
        assert_eq!(found, want.map(|(dir, name)| (dir, OsString::from(name))));
        symlink("loop", dir.join("loop")).unwrap();
        assert_eq!(places(&dir.join("loop")).len(), LINKS + 1);
        assert_eq!(places(&dir.join("absent")), [(dir.clone(), OsString::from("absent"))]);
    }

    #[tokio::test]
    async fn changes_are_seen_and_neighbours_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        secret(&dir, "..v1");
        secret(&dir, "..v2");
        point(&dir, "..v1");
        symlink("..data/tls.crt", dir.join("tls.crt")).unwrap();
        fs::write(dir.join("plain.pem"), "1").unwrap();
        let soon = Duration::from_secs(10);
        type Change<'a> = &'a dyn Fn();
        let changes: [(&str, Change<'_>); 4] = [
            ("plain.pem", &|| fs::write(dir.join("plain.pem"), "2").unwrap()),
            ("plain.pem", &|| {
                fs::write(dir.join("new.pem"), "3").unwrap();
                fs::rename(dir.join("new.pem"), dir.join("plain.pem")).unwrap();
            }),
            ("plain.pem", &|| fs::remove_file(dir.join("plain.pem")).unwrap()),
            ("tls.crt", &|| point(&dir, "..v2")),
        ];
        for (file, change) in changes {
            let watch = Watch::on(&places(&dir.join(file))).unwrap();
            for n in 0..100 {
                fs::write(dir.join(format!("neighbour{n}")), "x").unwrap();
            }
            drop(timeout(soon, watch.events.readable()).await.expect("the neighbours are told of"));
            assert_eq!(watch.touched().now_or_never(), None, "{file}: a neighbour");
            change();
            timeout(soon, watch.touched()).await.expect(file);
        }
    }
}
