//! A PostgreSQL newer than the machine's, for the tests of what only newer servers have. Nothing is installed: Debian's
//! packages of a later release are unpacked below `target/`, with the C library they were built for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run;

const MAJOR: u32 = 17;
/// The Debian release that has it.
const RELEASE: &str = "trixie";

/// Optional: a machine that cannot have it skips those tests, and they say so.
pub fn postgres() {
    let root = run::root().join(format!("target/postgresql-{MAJOR}"));
    let complete = |bin: &Path| bin.join("postgres").is_file() && bin.join("pg_rewind").is_file();
    let systems = PathBuf::from(format!("/usr/lib/postgresql/{MAJOR}/bin"));
    if complete(&systems) || complete(&root.join(format!("usr/lib/postgresql/{MAJOR}/bin"))) {
        return;
    }
    println!("unpacking PostgreSQL {MAJOR} below {} for the tests that need it", root.display());
    let mut fetch = Command::new("sh");
    fetch.arg("-c").arg(FETCH).arg("fetch").arg(&root).arg(MAJOR.to_string()).arg(RELEASE);
    let done = fetch.stdin(Stdio::null()).output();
    let why = match done {
        Ok(out) if out.status.success() => return,
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stderr).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(5)..].join("\n  ")
        }
        Err(e) => e.to_string(),
    };
    let _ = fs::remove_dir_all(&root);
    println!("PostgreSQL {MAJOR} is NOT AVAILABLE HERE, and what only it has will not be tested:\n  {why}");
}

/// Directory, major version, release. apt works on lists and archives of its own, and for a machine on which nothing is
/// installed yet, so that it brings the libraries too; it needs no privileges for that. The programs are made to use those
/// libraries. Without LLVM the server has no JIT compiler, and must not find the part of it that would load one.
const FETCH: &str = r#"
set -e
root=$1 major=$2 release=$3
. /etc/os-release
[ -n "$VERSION_CODENAME" ] || { echo "not a Debian release with a name" >&2; exit 1; }
work=$root.fetch stage=$root.unpacked
rm -rf "$work" "$stage"
trap 'rm -rf "$work" "$stage"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/sources" "$work/lists/partial" "$work/archives/partial" "$stage"
: >"$work/status"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  if grep -qs "$VERSION_CODENAME" "$file"; then
    sed "s/$VERSION_CODENAME/$release/g" "$file" >"$work/sources/$(basename "$file")"
  fi
done
cat >"$work/apt.conf" <<END
Dir::Etc::sourcelist "-";
Dir::Etc::sourceparts "$work/sources";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work";
Dir::Cache::archives "$work/archives";
APT::Sandbox::User "";
END
export APT_CONFIG=$work/apt.conf DEBIAN_FRONTEND=noninteractive
apt-get -q update >&2
apt-get -q -y --no-install-recommends --download-only install "postgresql-$major" patchelf >&2
for package in "$work"/archives/*.deb; do
  case ${package##*/} in
    libllvm* | libz3* | locales* | libc-l10n* | perl* | libperl* | *-perl_* | adduser* | debconf* | gcc-*) ;;
    *) dpkg-deb -x "$package" "$stage" ;;
  esac
done
loader=$(ls "$stage"/usr/lib/*/ld-linux*.so.* "$stage"/usr/lib*/ld-linux*.so.* 2>/dev/null | head -n 1)
libs=$(dirname "$(ls "$stage"/usr/lib/*/libc.so.6 | head -n 1)")
[ -n "$loader" ] || { echo "no loader in the packages" >&2; exit 1; }
rm -rf "$stage/usr/lib/postgresql/$major/lib/"llvmjit* "$stage/usr/lib/postgresql/$major/lib/bitcode"
inside() { echo "$root${1#"$stage"}"; }
for program in "$stage/usr/lib/postgresql/$major/bin"/*; do
  if [ "$(head -c 4 "$program" | tail -c 3)" = ELF ]; then
    "$loader" --library-path "$libs" "$stage/usr/bin/patchelf" --set-interpreter "$(inside "$loader")" \
      --set-rpath "$(inside "$libs")" --force-rpath "$program" >&2
  fi
done
find "$stage" -type d -exec chmod 755 {} +
rm -rf "$root"
mv "$stage" "$root"
"$root/usr/lib/postgresql/$major/bin/postgres" --version >&2
"#;
