//! A terminal that a program runs in and whose screen can be read: tmux, on a socket of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

pub struct Screen {
    socket: PathBuf,
}

impl Screen {
    /// Runs a line of shell in a terminal of this size. `dir` is for the socket.
    pub fn run(dir: &Path, line: &str, columns: u16, rows: u16) -> Result<Screen> {
        // A server that is told to end does so a little later.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let screen = Screen { socket: dir.join(format!("tmux{}.sock", NEXT.fetch_add(1, Ordering::Relaxed))) };
        let (x, y) = (columns.to_string(), rows.to_string());
        screen.tmux(&["new-session", "-d", "-x", &x, "-y", &y, "sh", "-c", line])?;
        Ok(screen)
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(["-f", "/dev/null", "-u"]).args(args).env("TERM", "xterm-256color");
        let done = command.output().context("cannot run tmux; `cargo xtask install` installs it")?;
        ensure!(done.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// What is on the screen now.
    pub fn text(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Keys by the names of tmux: `q`, `Down`, `C-c`.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Ends what runs in it too.
        let _ = self.tmux(&["kill-server"]);
    }
}
