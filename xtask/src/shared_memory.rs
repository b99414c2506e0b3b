//! Shared memory on this machine: PostgreSQL does not start when it has run out.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Servers that were killed and whose directories are gone leave a segment each that nobody removes; tests that are broken
/// off leave many. When half of what the machine has is taken, those that no process has and whose maker is dead go. A
/// server that starts where it was killed needs none of it.
pub fn make_room() {
    let most: usize =
        fs::read_to_string("/proc/sys/kernel/shmmni").ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let taken = segments.lines().count().saturating_sub(1);
    if taken * 2 <= most {
        return;
    }
    let left: Vec<&str> = segments.lines().skip(1).filter_map(left_by_the_dead).collect();
    println!(
        "{taken} of {most} System V shared memory segments are taken (ipcs -m); removing {} of the dead",
        left.len()
    );
    for some in left.chunks(100) {
        let ids = some.iter().flat_map(|id| ["-m", id]);
        if let Err(why) = Command::new("ipcrm").args(ids).status() {
            println!("cannot start ipcrm: {why}");
            return;
        }
    }
}

/// Its number, when nothing is attached to it and neither its maker nor whoever had it last lives.
fn left_by_the_dead(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, id, _, _, maker, last, "0", ..] = fields[..] else { return None };
    [maker, last].iter().all(|pid| !Path::new("/proc").join(pid).exists()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_has_is_left() {
        let own = std::process::id();
        let line = |maker: u32, attached: u32| {
            format!("  12  34  600  56  {maker}  {maker}  {attached}  107 111 107 111 1 2 3 4096 0")
        };
        assert_eq!(left_by_the_dead(&line(u32::MAX, 0)), Some("34"));
        assert_eq!(left_by_the_dead(&line(u32::MAX, 1)), None);
        assert_eq!(left_by_the_dead(&line(own, 0)), None);
        assert_eq!(left_by_the_dead(""), None);
    }
}
