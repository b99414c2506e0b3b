//! What happens to the machines of a simulated group, and how it ends.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::address;
use super::play::{DISK_TAKES, Group, SECOND};

/// Among the kinds of faults.
pub const POWER_LOST_BY_ALL: usize = 4;

/// What ends a fault.
#[derive(Clone, Debug)]
pub enum Heal {
    Thaw(usize),
    Links(Vec<(usize, usize)>),
    Fast(usize),
    Disk(usize),
}

impl Group {
    pub fn fault(&mut self) {
        let n = self.processes.len();
        let (i, now) = (self.pick(n), self.now());
        let until = now + self.between(300, 40_000) * 1000;
        let soon = now + self.between(200, 15_000) * 1000;
        let up = self.processes[i].is_some() && !self.frozen[i];
        let kind = self.only.unwrap_or_else(|| self.pick(16));
        let (name, text) = match kind {
            0 | 1 if up => {
                self.end(i);
                self.starts[i] = Some(soon);
                match self.pick(4) {
                    0 => {
                        self.world.lock().machines[i].newest = 2;
                        ("process replaced", format!("the process of {i} is killed, and the next version installed"))
                    }
                    _ => ("process killed", format!("the process of {i} is killed")),
                }
            }
            2 if up => {
                let many = self.between(0, 30) as i64;
                if let Some(process) = &self.processes[i] {
                    process.here.dies_in.store(many, Ordering::Relaxed);
                }
                ("killed while it writes", format!("the process of {i} dies at write {many} from now"))
            }
            3 if up => {
                self.power_off(i);
                self.starts[i] = Some(soon);
                ("power lost", format!("machine {i} loses power"))
            }
            POWER_LOST_BY_ALL if self.only.is_some() || self.pick(4) == 0 => {
                for all in 0..n {
                    self.power_off(all);
                    self.starts[all] = Some(now + self.between(200, 15_000) * 1000);
                }
                ("power lost by all", "all machines lose power".to_owned())
            }
            5 | 6 if up => {
                self.frozen[i] = true;
                self.ongoing.push((until, Heal::Thaw(i)));
                ("frozen", format!("the process of {i} is frozen"))
            }
            7 => self.cut("cut off", until, (0..n).filter(|o| *o != i).flat_map(|o| [(i, o), (o, i)]).collect()),
            8 => self.cut("cut off one way", until, (0..n).filter(|o| *o != i).map(|o| (i, o)).collect()),
            9 => self.cut("hears nobody", until, (0..n).filter(|o| *o != i).map(|o| (o, i)).collect()),
            10 => {
                let side: Vec<bool> = (0..n).map(|_| self.pick(2) == 0).collect();
                let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| side[*a] != side[*b]);
                self.cut("parted", until, pairs.collect())
            }
            11 => {
                let other = (i + 1 + self.pick(n - 1)) % n;
                self.cut("link cut", until, vec![(i, other), (other, i)])
            }
            12 => {
                let us = self.between(20_000, 700_000);
                self.world.lock().network.slow.insert(i, us);
                self.ongoing.push((until, Heal::Fast(i)));
                ("slow link", format!("packets of {i} take up to {} ms", us / 1000))
            }
            13 => {
                let us = self.between(50_000, 1_500_000);
                self.world.lock().machines[i].disk_takes = us;
                self.ongoing.push((until, Heal::Disk(i)));
                ("slow disk", format!("the disk of {i} takes up to {} ms", us / 1000))
            }
            14 => {
                let full = self.pick(2) == 0;
                let mut inner = self.world.lock();
                match full {
                    true => inner.machines[i].disk.full.store(true, Ordering::Relaxed),
                    false => inner.machines[i].disk_hangs = true,
                }
                drop(inner);
                self.ongoing.push((until, Heal::Disk(i)));
                match full {
                    true => ("disk full", format!("the disk of {i} is full")),
                    false => ("disk hangs", format!("the disk of {i} hangs")),
                }
            }
            15 if self.returning.is_none() && up => return self.leave(i),
            _ => return,
        };
        *self.report.faults.entry(name).or_default() += 1;
        self.tell(text);
        let pace = self.between(0, 1001) as i64 - 500;
        self.world.lock().machines[i].pace = pace;
    }

    fn cut(&mut self, name: &'static str, until: u64, links: Vec<(usize, usize)>) -> (&'static str, String) {
        self.world.lock().network.cut.extend(&links);
        let text = format!("{name}: {links:?}");
        self.ongoing.push((until, Heal::Links(links)));
        (name, text)
    }

    fn power_off(&mut self, i: usize) {
        if let Some(store) = self.store(i) {
            self.tell(format!("{i} had {}", super::play::standing(&store)));
        }
        {
            let mut inner = self.world.lock();
            inner.machines[i].on = false;
        }
        self.end(i);
        let mut inner = self.world.lock();
        let inner = &mut *inner;
        inner.history.gives_up(i);
        let machine = &mut inner.machines[i];
        machine.disk.lose_power(&mut inner.random);
        machine.clock = inner.random.between(20, 60) * SECOND;
    }

    /// A member goes: its disk is lost, or an operator removes it. It comes back with an empty one.
    fn leave(&mut self, i: usize) {
        self.returning = Some(i);
        if self.pick(2) == 0 {
            *self.report.faults.entry("disk lost").or_default() += 1;
            self.tell(format!("machine {i} loses its disk"));
            self.replace(i);
            return;
        }
        *self.report.faults.entry("member removed").or_default() += 1;
        self.tell(format!("an operator removes {i}"));
        let other = (0..self.processes.len()).filter(|o| *o != i && !self.frozen[*o]).find_map(|o| {
            let store = self.store(o)?;
            Some((self.processes[o].as_ref()?, store))
        });
        let Some((process, store)) = other else { return };
        let removed = self.removed.clone();
        process.runtime.spawn(async move {
            // Refused if the group could not bear it; else it is away, or the next rest finds out.
            if store.remove_member(&address(i), Duration::from_secs(5)).await.is_ok() {
                removed.lock().unwrap_or_else(PoisonError::into_inner).push(i);
            }
        });
    }

    pub fn replace(&mut self, i: usize) {
        self.end(i);
        let now = self.now();
        self.starts[i] = Some(now + self.between(200, 10_000) * 1000);
        let mut inner = self.world.lock();
        // Who comes back with nothing reads what the others write by now.
        let newest = inner.machines.iter().map(|m| m.newest).max();
        let machine = &mut inner.machines[i];
        machine.newest = newest.unwrap_or(machine.newest);
        machine.disk.wipe();
    }

    pub fn heal(&mut self, heal: Heal) {
        self.tell(format!("over: {heal:?}"));
        let mut inner = self.world.lock();
        match heal {
            Heal::Thaw(i) => self.frozen[i] = false,
            Heal::Links(links) => {
                links.iter().for_each(|link| _ = inner.network.cut.remove(link));
                let now = inner.now;
                inner.network.heal(now);
            }
            Heal::Fast(i) => _ = inner.network.slow.remove(&i),
            Heal::Disk(i) => {
                let machine = &mut inner.machines[i];
                machine.disk_takes = DISK_TAKES;
                machine.disk_hangs = false;
                machine.disk.full.store(false, Ordering::Relaxed);
            }
        }
    }
}
