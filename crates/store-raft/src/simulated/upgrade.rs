//! A group of one version becomes one of the next, node by node, while it is used.

use super::play::{Group, Plan, SECOND, with_group};

const MACHINES: usize = 3;

impl Group {
    fn install(&mut self, i: usize, newest: u32) {
        self.end(i);
        self.world.lock().machines[i].newest = newest;
        self.starts[i] = Some(self.now() + SECOND);
    }

    fn for_seconds(&mut self, seconds: u64) -> Result<(), String> {
        let until = self.now() + seconds * SECOND;
        while self.now() < until {
            self.step()?;
        }
        Ok(())
    }

    fn until(&mut self, what: &str, mut so: impl FnMut(&Group) -> bool) -> Result<(), String> {
        let end = self.now() + 60 * SECOND;
        while !so(self) {
            if self.now() > end {
                return Err(format!("not within a minute: {what}"));
            }
            self.step()?;
        }
        Ok(())
    }

    fn formats(&self) -> Vec<Option<u32>> {
        (0..MACHINES).map(|i| Some(self.store(i)?.node.machine.format())).collect()
    }

    fn later(&self) -> u64 {
        self.world.lock().history.counts.later
    }

    fn writes(&self) -> u64 {
        self.world.lock().history.counts.writes
    }
}

fn agree<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{what}: {is:?}, not {should:?}")) }
}

fn upgrade(group: &mut Group) -> Result<(), String> {
    (0..MACHINES).for_each(|i| group.world.lock().machines[i].newest = 1);
    group.rest()?;
    // Two of three, with a way back for each.
    for (i, newest) in [(0, 2), (1, 2), (0, 1), (0, 2)] {
        group.install(i, newest);
        group.rest()?;
        group.for_seconds(30)?;
        agree("while one is of the old version", group.formats(), vec![Some(1); MACHINES])?;
    }
    agree("records of the new format before all read it", group.later(), 0)?;
    group.install(2, 2);
    group.rest()?;
    group.until("all write the new format", |g| g.formats() == [Some(2); MACHINES])?;
    group.until("records of the new format", |g| g.later() > 5)?;
    agree("processes that ended themselves", group.report.aborts, 0)?;

    // There is no way back: not with the old files, and not with none.
    group.install(1, 1);
    let writes = group.writes();
    group.for_seconds(40)?;
    agree("the old version on new files", group.formats()[1], None)?;
    group.replace(1);
    group.world.lock().machines[1].newest = 1;
    group.until("refused as a new member", |g| {
        g.store(1).is_some_and(|store| {
            let waits = store.node.waiting_for.borrow();
            waits.contains("reads the store's format 1 at most, and the group writes format 2")
        })
    })?;
    agree("the others go on", group.writes() > writes + 3, true)?;
    group.install(1, 2);
    group.rest()?;
    agree("all again", group.formats(), vec![Some(2); MACHINES])
}

#[test]
fn node_by_node() {
    for seed in [1, 2, 3] {
        let plan =
            Plan { seed, machines: MACHINES, time: std::time::Duration::ZERO, bug: None, only: None, progress: false };
        let report = with_group(plan, upgrade);
        assert_eq!(report.violation, None, "{report}");
    }
}
