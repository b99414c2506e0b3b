//! A failing run in words.

use std::fmt::Write;

use crate::bug::Bug;
use crate::history::Violation;
use crate::plan::{Action, Plan, Refuses, StoreKind, Who};
use crate::run::run;
use crate::world::World;
use crate::world::clock::{MS, True};

/// The lines before the end that are told.
const LINES: usize = 40;

pub fn tell(plan: &Plan, violation: &Violation, bug: Option<Bug>) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "seed {}, {} members{}, ttl {} s: {} is broken",
        plan.seed,
        plan.members,
        store(plan.store),
        plan.timing.ttl.as_secs(),
        violation.invariant
    );
    let special = plan.special();
    if !special.is_empty() {
        let _ = writeln!(text, "  with {}", special.join(", "));
    }
    for (at, action) in &plan.actions {
        let _ = writeln!(text, "  at {:>8}  {}", time(*at), words(*action));
    }
    let _ = writeln!(text, "  at {:>8}  {}", time(violation.at), violation.what);
    let lines = run(plan, bug, true).trace.lines;
    let _ = writeln!(text, "the last lines of the run:");
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        let _ = writeln!(text, "  {line}");
    }
    text
}

pub fn time(at: True) -> String {
    let text = format!("{}.{:03}", at / MS / 1000, at / MS % 1000);
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

fn store(kind: StoreKind) -> String {
    match kind {
        StoreKind::Service => String::new(),
        StoreKind::Embedded { voters, witness } => {
            format!(", embedded store with {voters} voters{}", if witness { " and a witness" } else { "" })
        }
    }
}

fn who(who: Who) -> String {
    match who {
        Who::Node(i) => format!("n{}", i + 1),
        Who::Leader => "the leader".into(),
        Who::StoreLeader => "the store's leader".into(),
        Who::Other(k) => format!("another member ({})", k + 1),
    }
}

pub fn words(action: Action) -> String {
    use Action as A;
    match action {
        A::KillAgent { who: n, down } => format!("the agent of {} is killed, and back after {}", who(n), time(down)),
        A::FreezeAgent { who: n, lasts } => format!("the agent of {} is frozen for {}", who(n), time(lasts)),
        A::EndAgent { who: n } => format!("the agent of {} is told to end", who(n)),
        A::UpgradeAgent { who: n } => format!("the agent of {} is replaced by a new one", who(n)),
        A::PowerOff { who: n, down } => format!("the machine of {} goes off for {}", who(n), time(down)),
        A::Suspend { who: n, lasts } => format!("the machine of {} is suspended for {}", who(n), time(lasts)),
        A::StepWall { who: n, by_ms } => format!("the wall clock of {} jumps by {} s", who(n), by_ms / 1000),
        A::KillPostmaster { who: n, outlive: 0 } => format!("the postmaster of {} is killed", who(n)),
        A::KillPostmaster { who: n, outlive } => {
            format!("the postmaster of {} is killed, backends live on for up to {}", who(n), time(outlive))
        }
        A::CrashServer { who: n } => format!("PostgreSQL of {} crashes", who(n)),
        A::FreezePostmaster { who: n, lasts } => format!("the postmaster of {} is frozen for {}", who(n), time(lasts)),
        A::KillFence { who: n } => format!("the fence of {} is killed", who(n)),
        A::CutPair { a, b, one_way, lasts } => {
            format!("{} is cut from {}{} for {}", who(a), who(b), way(one_way), time(lasts))
        }
        A::CutStore { who: n, one_way, lasts } => {
            format!("{} is cut from the store{} for {}", who(n), way(one_way), time(lasts))
        }
        A::Isolate { who: n, lasts } => format!("{} is cut from everything for {}", who(n), time(lasts)),
        A::SlowNetwork { who: n, by, lasts } => {
            format!("the network of {} is slower by {} for {}", who(n), time(by), time(lasts))
        }
        A::SlowStore { by, lasts } => format!("the store is slower by {} for {}", time(by), time(lasts)),
        A::StoreOutage { lasts, again: true } => format!("the store is away for {}, leases start again", time(lasts)),
        A::StoreOutage { lasts, again: false } => format!("the store is away for {}", time(lasts)),
        A::LoseAnswers { percent, lasts } => {
            format!("{percent} of a hundred answers of the store get lost for {}", time(lasts))
        }
        A::ReadOnlyStore { who: n, refuses, lasts } => {
            let what = match refuses {
                Refuses::Puts => "puts and new leases",
                Refuses::Writes => "all writes",
                Refuses::Changes => "all writes, and ends no lease,",
            };
            format!("the store refuses {what}{} for {}", to(n), time(lasts))
        }
        A::StoreErrors { who: n, percent, lasts } => {
            format!("the store fails {percent} of a hundred requests{} for {}", to(n), time(lasts))
        }
        A::FlapStore { who: n, away, back, lasts } => {
            format!("the store goes for {} and comes back for {}{}, for {}", time(away), time(back), to(n), time(lasts))
        }
        A::LoseWitness { lasts } => format!("the witness is gone for {}", time(lasts)),
        A::Partition { side, with_store, lasts } => {
            let members = (0..8).filter(|n| (side >> n) & 1 == 1).map(|n| format!("n{}", n + 1));
            let apart: Vec<String> = members.chain(with_store.then(|| "the store's machine".into())).collect();
            format!("the network parts {} from the rest for {}", apart.join(", "), time(lasts))
        }
        A::StallWatch { who: n, lasts } => format!("the watch of {} is silent for {}", who(n), time(lasts)),
        A::BreakWatch { who: n, lasts } => format!("the watch of {} is broken for {}", who(n), time(lasts)),
        A::HangDisk { who: n, lasts } => format!("the disk of {} hangs for {}", who(n), time(lasts)),
        A::FillDisk { who: n, lasts } => format!("the disk of {} is full for {}", who(n), time(lasts)),
        A::SlowNode { who: n, percent, lasts } => {
            format!("checkpoints and recovery of {} take {percent} % for {}", who(n), time(lasts))
        }
        A::Lag { who: n, by, lasts } => format!("{} lags by {} for {}", who(n), time(by), time(lasts)),
        A::PromotionFails { who: n, lasts } => format!("promotions of {} fail for {}", who(n), time(lasts)),
        A::Switchover { to: Some(n) } => format!("an operator switches over to {}", who(n)),
        A::Switchover { to: None } => "an operator switches over".into(),
        A::Failover { to } => format!("an operator fails over to {}", who(to)),
        A::Pause { lasts } => format!("the cluster is paused for {}", time(lasts)),
        A::Set { setting, value } => format!("{setting} is set to {value}"),
        A::Failsafe { mode: Some(true) } => "failsafe mode is switched on".into(),
        A::Failsafe { mode: Some(false) } => "failsafe mode is switched off".into(),
        A::Failsafe { mode: None } => "failsafe mode is left to the default".into(),
        A::RemoteFails { lasts } => format!("the primary of the other site is away for {}", time(lasts)),
        A::RemoteFailsOver { lost } => format!("the other site fails over, without the last {lost} bytes"),
        A::CutRemote { who: n, lasts } => format!("{} is cut from the other site for {}", who(n), time(lasts)),
        A::PromoteCluster => "an operator promotes the cluster".into(),
        A::DemoteCluster { hasty: false } => "an operator demotes the cluster".into(),
        A::DemoteCluster { hasty: true } => {
            "an operator demotes the cluster, and the other site takes over at once".into()
        }
        A::Restart { who: n } => format!("an operator restarts {}", who(n)),
        A::Reinit { who: n, .. } => format!("an operator reinitialises {}", who(n)),
    }
}

fn to(n: Option<Who>) -> String {
    n.map_or(String::new(), |n| format!(" to {}", who(n)))
}

fn way(one_way: bool) -> &'static str {
    if one_way { " one way" } else { "" }
}

impl World {
    pub fn tell_action(&mut self, action: Action) {
        self.tell_world(|| format!("*** {}", words(action)));
    }
}
