//! `surus demo` without a terminal, driven by lines.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

struct Demo {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    seen: Vec<String>,
    asked: usize,
}

impl Demo {
    fn start(args: &[&str]) -> Result<Demo> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_surus"));
        command.arg("demo").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (out, stdin) = (child.stdout.take().context("no output")?, child.stdin.take().context("no input")?);
        let (tx, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Demo { child, stdin, lines, seen: Vec::new(), asked: 0 })
    }

    /// What the demo says from here on is its answer: events of different members come in any order.
    fn say(&mut self, command: &str) -> Result<()> {
        self.seen.extend(self.lines.try_iter());
        self.asked = self.seen.len();
        Ok(writeln!(self.stdin, "{command}")?)
    }

    /// The first line that is wanted since the last command.
    fn wait<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        if let Some(found) = self.seen[self.asked..].iter().find_map(|line| wanted(line)) {
            return Ok(found);
        }
        let end = Instant::now() + Duration::from_secs(90);
        loop {
            let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) else {
                bail!("{what}: never seen; the demo said:\n{}", self.seen.join("\n"));
            };
            let found = wanted(&line);
            self.seen.push(line);
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    fn wait_primary_other_than(&mut self, old: &str) -> Result<String> {
        self.wait("another primary", |line| {
            let name = line.strip_suffix(" is the primary")?.rsplit(' ').next()?;
            (name != old).then(|| name.to_owned())
        })
    }

    fn wait_streaming(&mut self, name: &str) -> Result<()> {
        let wanted = format!("{name}: replica, streaming");
        self.wait(&wanted, |line| line.contains(&wanted).then_some(()))
    }

    fn end(mut self, dir: &Path) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}; it said:\n{}", self.seen.join("\n"));
        ensure!(!dir.exists(), "{} is still there", dir.display());
        ensure!(surus_testbed::procs::under(dir).is_empty(), "it left processes behind");
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Its own SIGTERM handler ends the cluster; SIGKILL would leave it behind.
        if let Ok(None) = self.child.try_wait() {
            surus_testbed::procs::terminate(self.child.id());
            let _ = self.child.wait();
        }
    }
}

fn through_its_paces(store: &str) -> Result<()> {
    let mut demo = Demo::start(&["--store", store, "--for", "300"])?;
    let dir = demo.wait("the directory", |line| {
        let file = line.strip_prefix("the ordinary commands: surus -c ")?.strip_suffix(" list")?;
        Path::new(file).parent().map(Path::to_owned)
    })?;
    let first = demo.wait_primary_other_than("")?;
    for name in ["node1", "node2", "node3"].into_iter().filter(|name| *name != first) {
        demo.wait_streaming(name)?;
    }
    demo.say("s")?;
    let second = demo.wait_primary_other_than(&first)?;
    demo.wait_streaming(&first)?;
    let number = second.trim_start_matches("node");
    demo.say(&format!("k {number}"))?;
    demo.wait_primary_other_than(&second)?;
    demo.say(&format!("r {number}"))?;
    demo.wait_streaming(&second)?;
    demo.say("q")?;
    demo.end(&dir)
}

#[test]
fn embedded() -> Result<()> {
    through_its_paces("embedded")
}

#[test]
fn etcd() -> Result<()> {
    through_its_paces("etcd")
}

#[test]
fn ends_by_itself_and_cleans_up() -> Result<()> {
    let mut demo = Demo::start(&["--nodes", "1", "--for", "3"])?;
    let dir = demo.wait("the directory", |line| {
        let file = line.strip_prefix("the ordinary commands: surus -c ")?.strip_suffix(" list")?;
        Path::new(file).parent().map(Path::to_owned)
    })?;
    demo.end(&dir)
}
