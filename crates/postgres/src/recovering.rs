//! How far a server that takes no connections yet has replayed: its startup process says so in its title.

use surus_core::Lsn;

use crate::postmaster::Postmaster;
use crate::proc_fs::Proc;

impl Postmaster {
    /// Where the segment begins that is being replayed. `None`: nothing is, or `update_process_title` is off. Reads `/proc`
    /// alone.
    pub fn replaying(&self, segment: u64) -> Option<Lsn> {
        let children = Proc::all().into_iter().filter(|p| p.ppid == self.pid);
        children.filter_map(|p| in_title(&p.args().join(" "), segment)).next()
    }
}

/// `postgres: startup recovering 000000010000000000000003`.
fn in_title(title: &str, segment: u64) -> Option<Lsn> {
    let file = title.split_once(" recovering ")?.1.split_whitespace().next()?;
    let part = |range| file.get(range).and_then(|hex| u64::from_str_radix(hex, 16).ok());
    if file.len() != 24 || !title.contains("startup") || segment == 0 {
        return None;
    }
    let (log, number) = (part(8..16)?, part(16..24)?);
    Some(Lsn((log << 32).checked_add(number.checked_mul(segment)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_title_of_the_startup_process() {
        for (title, at) in [
            ("postgres: startup recovering 000000010000000000000003", Some(3 << 24)),
            ("postgres: main: startup recovering 0000000200000005000000FF   ", Some((5 << 32) + (255 << 24))),
            ("postgres: startup", None),
            ("postgres: startup waiting for 000000010000000000000003", None),
            ("postgres: startup recovering 0000000100000000000000", None),
            ("postgres: walreceiver streaming 0/3000000", None),
            ("postgres: x y recovering 000000010000000000000003", None),
        ] {
            assert_eq!(in_title(title, 16 << 20), at.map(Lsn), "{title}");
        }
    }
}
