//! Packages of another Debian release than the machine's. Nothing is installed: they are unpacked below `target/`.

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `script` after [`APT`], with the directory to make, the release and `more` as arguments; why there is none.
pub fn unpack(script: &str, root: &Path, release: &str, more: &[&str]) -> Result<(), String> {
    let mut fetch = Command::new("sh");
    fetch.arg("-c").arg(format!("{APT}{script}")).arg("fetch").arg(root).arg(release).args(more);
    match fetch.stdin(Stdio::null()).output() {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stderr).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            Err(lines[lines.len().saturating_sub(5)..].join("\n  "))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// apt works on lists and archives of its own; it needs no privileges for that. What is to become `$root` belongs into
/// `$stage`, and what is only needed meanwhile into `$work`.
const APT: &str = r#"
set -e
root=$1 release=$2
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
"#;
