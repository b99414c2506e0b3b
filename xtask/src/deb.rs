//! The Debian package, by dpkg-deb alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{machine, run};

const NAME: &str = "surus";

/// What is asked for on the command line.
#[derive(Debug, Default)]
struct Ask {
    /// A binary that is there already, instead of a release build.
    binary: Option<PathBuf>,
    out: Option<PathBuf>,
}

/// Where each file of the project goes, and with which rights.
const FILES: &[(&str, &str, u32)] = &[
    ("contrib/systemd/surus.service", "lib/systemd/system/surus.service", 0o644),
    ("contrib/debian/default", "etc/default/surus", 0o644),
    ("contrib/debian/surus.yml.example", "usr/share/doc/surus/examples/surus.yml", 0o644),
    ("contrib/systemd/keep-postgres.conf", "usr/share/doc/surus/examples/keep-postgres.conf", 0o644),
    ("contrib/prometheus/surus.rules.yml", "usr/share/doc/surus/examples/surus.rules.yml", 0o644),
    ("contrib/grafana/surus.json", "usr/share/doc/surus/examples/grafana.json", 0o644),
    ("CHANGELOG.md", "usr/share/doc/surus/CHANGELOG.md", 0o644),
];
const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];
const CONFIGURATION: &[&str] = &["/etc/default/surus"];
/// Empty ones, which hold what the operator puts there.
const DIRECTORIES: &[&str] = &["etc/surus", "var/lib/surus"];

pub fn deb(args: &[String]) -> Result<()> {
    let ask = parse(args)?;
    let root = run::root();
    let binary = match ask.binary {
        Some(binary) => binary,
        None => {
            machine::install(machine::BUILD)?;
            run::step("release build", &mut run::cargo(&["build", "--release", "--package", "surus"]))?;
            root.join("target/release/surus")
        }
    };
    let out = ask.out.unwrap_or_else(|| root.join("target/debian"));
    let package = build(&root, &binary, &out)?;
    println!("=> {}", package.display());
    Ok(())
}

fn parse(args: &[String]) -> Result<Ask> {
    let mut ask = Ask::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().map(PathBuf::from).with_context(|| format!("{arg} needs a path behind it"));
        match arg.as_str() {
            "--binary" => ask.binary = Some(value()?),
            "--out" => ask.out = Some(value()?),
            other => {
                bail!("cargo xtask deb knows --binary FILE (instead of a release build) and --out DIR, not {other}")
            }
        }
    }
    Ok(ask)
}

/// Returns the package's path.
fn build(root: &Path, binary: &Path, out: &Path) -> Result<PathBuf> {
    let architecture = said(Command::new("dpkg").arg("--print-architecture"))?;
    let version = version(root)?;
    let tree = out.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot clear {}", tree.display()))?;
    }
    place(binary, &tree.join("usr/bin/surus"), 0o755)?;
    for (from, to, mode) in FILES {
        place(&root.join(from), &tree.join(to), *mode)?;
    }
    for page in markdown(&root.join("docs"))? {
        let name = page.file_name().unwrap_or_default();
        place(&page, &tree.join("usr/share/doc/surus").join(name), 0o644)?;
    }
    for dir in DIRECTORIES {
        fs::create_dir_all(tree.join(dir))?;
    }
    manual(binary, &tree)?;
    let copyright = tree.join("usr/share/doc/surus/copyright");
    fs::write(&copyright, "Surus is licensed under either of MIT or Apache-2.0, at your choice.\n")?;

    let control = tree.join("DEBIAN");
    for script in SCRIPTS {
        place(&root.join("contrib/debian").join(script), &control.join(script), 0o755)?;
    }
    fs::write(control.join("conffiles"), CONFIGURATION.join("\n") + "\n")?;
    let size: u64 = sizes(&tree)? / 1024;
    fs::write(control.join("control"), described(&version, &architecture, size))?;

    let package = out.join(format!("{NAME}_{version}_{architecture}.deb"));
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "--build"]).arg(&tree).arg(&package).stdout(Stdio::null());
    let packed = pack.status().context("cannot run dpkg-deb, which comes with Debian's dpkg")?;
    if !packed.success() {
        bail!("dpkg-deb did not build {} ({packed})", package.display());
    }
    fs::remove_dir_all(&tree)?;
    Ok(package)
}

fn described(version: &str, architecture: &str, kib: u64) -> String {
    format!(
        "Package: {NAME}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: The Surus developers <surus@localhost>\n\
         Installed-Size: {kib}\nDepends: libc6 (>= 2.34), passwd\nRecommends: postgresql\nSuggests: prometheus\n\
         Section: database\nPriority: optional\n\
         Description: high availability for PostgreSQL\n \
         One small agent beside each PostgreSQL server initialises it, joins it to its cluster,\n \
         fails over and switches over. Reads Patroni's configuration, keeps its keys in the\n \
         store and answers its REST API.\n"
    )
}

/// The manual pages are made by the program itself.
fn manual(binary: &Path, tree: &Path) -> Result<()> {
    let dir = tree.join("usr/share/man/man1");
    fs::create_dir_all(&dir)?;
    let made = Command::new(binary).args(["man"]).arg(&dir).stdin(Stdio::null()).output();
    let made = made.with_context(|| format!("cannot run {}", binary.display()))?;
    if !made.status.success() {
        bail!("surus man: {}\n{}", made.status, String::from_utf8_lossy(&made.stderr));
    }
    let mut pages: Vec<PathBuf> = fs::read_dir(&dir)?.flatten().map(|e| e.path()).collect();
    pages.sort();
    if pages.is_empty() {
        bail!("surus man wrote no page into {}", dir.display());
    }
    // Without a time in it: the same files make the same package.
    let zipped = Command::new("gzip").args(["-9", "-n"]).args(&pages).status().context("cannot run gzip")?;
    if !zipped.success() {
        bail!("the manual pages could not be compressed ({zipped})");
    }
    Ok(())
}

fn place(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn markdown(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut pages: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|e| e.path()).collect();
    pages.retain(|page| page.extension().is_some_and(|e| e == "md"));
    pages.sort();
    Ok(pages)
}

fn sizes(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)?.flatten() {
        let kind = entry.metadata()?;
        sum += if kind.is_dir() { sizes(&entry.path())? } else { kind.len() };
    }
    Ok(sum)
}

/// Of the workspace. What was not released yet sorts before the release.
fn version(root: &Path) -> Result<String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let line = manifest.lines().find_map(|l| l.strip_prefix("version = \"")).context("Cargo.toml has no version")?;
    Ok(line.trim_end_matches('"').to_owned())
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this test alone, gone afterwards.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Scratch {
            let dir = std::env::temp_dir().join(format!("surus-deb-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn ran(command: &mut Command) -> String {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {text}");
        text
    }

    /// Installed into a directory that stands for a machine, configured, removed and purged.
    #[test]
    fn installed_and_removed() {
        let scratch = Scratch::new();
        let (dir, machine) = (&scratch.0, scratch.0.join("machine"));
        let binary = dir.join("surus");
        // What is packed is not what is tested here: it stands for the program and makes a manual page.
        fs::write(&binary, "#!/bin/sh\n[ \"$1\" = man ] && echo .TH >\"$2/surus.1\"\n").unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let package = build(&run::root(), &binary, dir).unwrap();

        let listed = ran(Command::new("dpkg-deb").arg("--contents").arg(&package));
        for path in ["./usr/bin/surus", "./lib/systemd/system/surus.service", "./usr/share/man/man1/surus.1.gz"] {
            assert!(listed.contains(path), "{path} is missing:\n{listed}");
        }
        assert!(!listed.lines().any(|l| !l.contains("root/root")), "{listed}");

        for part in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "tmp"] {
            fs::create_dir_all(machine.join(part)).unwrap();
        }
        for empty in ["var/lib/dpkg/status", "var/lib/dpkg/available", "etc/passwd", "etc/group", "etc/shadow"] {
            fs::write(machine.join(empty), "").unwrap();
        }
        let dpkg = |args: &[&str]| {
            let mut command = Command::new("dpkg");
            // Dependencies are looked for on that machine, which has none, and its scripts are run by ours.
            command.arg(format!("--root={}", machine.display()));
            command.args(["--force-not-root", "--force-script-chrootless", "--force-depends"]);
            ran(command.args(args).env("DEBIAN_FRONTEND", "noninteractive"))
        };
        let unprivileged = ran(Command::new("id").arg("-u")).trim() != "0";
        if unprivileged {
            println!("NOT AVAILABLE HERE: installing a package needs root, for the owners of its files");
            return;
        }
        dpkg(&["--install", package.to_str().unwrap()]);
        let there = |path: &str| machine.join(path).exists();
        assert!(there("usr/bin/surus") && there("etc/default/surus") && there("var/lib/surus"));
        let users = fs::read_to_string(machine.join("etc/passwd")).unwrap();
        assert!(users.starts_with("postgres:"), "{users}");
        let rights = fs::metadata(machine.join("etc/surus")).unwrap().permissions().mode();
        assert_eq!(rights & 0o777, 0o750);

        // What an operator wrote stays through an upgrade and a removal, and goes with a purge.
        fs::write(machine.join("etc/default/surus"), "SURUS_LOG_LEVEL=DEBUG\n").unwrap();
        dpkg(&["--install", package.to_str().unwrap()]);
        let users_after = fs::read_to_string(machine.join("etc/passwd")).unwrap();
        assert_eq!(users_after, users, "made once");
        let kept = fs::read_to_string(machine.join("etc/default/surus")).unwrap();
        assert_eq!(kept, "SURUS_LOG_LEVEL=DEBUG\n");
        dpkg(&["--remove", NAME]);
        assert!(!there("usr/bin/surus") && there("etc/default/surus"));
        dpkg(&["--purge", NAME]);
        assert!(!there("etc/default/surus") && !there("var/lib/surus"));
    }

    #[test]
    fn arguments() {
        let args = |words: &[&str]| parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(args(&["--out", "x"]).unwrap().out, Some("x".into()));
        assert!(args(&["--out"]).unwrap_err().to_string().contains("needs a path"));
        assert!(args(&["--what"]).is_err());
    }
}
