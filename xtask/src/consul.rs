//! A Consul server for the tests of that store: the newest that Debian ever had. The releases since have none.

use std::fs;

use crate::{foreign, machine, run};

/// The last Debian release that has it.
const RELEASE: &str = "bullseye";

/// Without it the tests of that store fail, each by itself.
pub fn consul() {
    let root = run::root().join("target/consul");
    if machine::on_path("consul") || root.join("usr/bin/consul").is_file() {
        return;
    }
    println!("unpacking Consul below {} for the tests of that store", root.display());
    if let Err(why) = foreign::unpack(FETCH, &root, RELEASE, &[]) {
        let _ = fs::remove_dir_all(&root);
        println!(
            "there is NO CONSUL SERVER HERE, so the tests of that store will fail; Debian's {RELEASE} did not bring one, and a \
             `consul` on the PATH would do as well:\n  {why}"
        );
    }
}

/// One program that needs nothing but the C library.
const FETCH: &str = r#"
(cd "$work/archives" && apt-get -q download consul >&2)
dpkg-deb -x "$work"/archives/consul_*.deb "$stage"
"$stage/usr/bin/consul" version >&2
find "$stage" -type d -exec chmod 755 {} +
rm -rf "$root"
mv "$stage" "$root"
"#;
