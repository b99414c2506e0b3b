//! A PostgreSQL newer than the machine's, for the tests of what only newer servers have. Nothing is installed: Debian's
//! packages of a later release are unpacked below `target/`, with the C library they were built for.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{foreign, run};

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
    let Err(why) = foreign::unpack(FETCH, &root, RELEASE, &[&MAJOR.to_string()]) else { return };
    let _ = fs::remove_dir_all(&root);
    println!("PostgreSQL {MAJOR} is NOT AVAILABLE HERE, and what only it has will not be tested:\n  {why}");
}

/// After [`foreign::APT`], with the major version as the third argument; for a machine on which nothing is installed yet,
/// so that it brings the libraries too. The programs are made to use those libraries. Without LLVM the server has no JIT
/// compiler, and must not find the part of it that would load one.
const FETCH: &str = r#"
major=$3
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
