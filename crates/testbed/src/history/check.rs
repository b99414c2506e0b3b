//! The checks. Each is over observations alone: nothing is asked of the cluster.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::{Ack, Allowed, Content, History, MONEY, Server};

/// A stretch of acknowledgements by one server.
#[derive(Clone, Debug)]
pub struct Reign {
    pub server: Server,
    pub first: Duration,
    pub last: Duration,
    pub acknowledged: usize,
    /// Acknowledged here and not in the final content, in commits and in bytes of WAL from the first to the last.
    pub lost: usize,
    pub lost_bytes: u64,
    /// It ended by a planned switchover.
    pub handed_over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged after another server had acknowledged its first: how many, and by how much the last was late.
    TwoWriters {
        old: Server,
        new: Server,
        commits: usize,
        late: Duration,
    },
    /// Two members on one timeline: they were promoted apart.
    SharedTimeline {
        timeline: u32,
        nodes: BTreeSet<usize>,
    },
    Lost {
        server: Server,
        commits: usize,
        why: &'static str,
    },
    /// A commit is missing and a later one of the same server is there.
    Hole {
        server: Server,
        missing: (u32, u64),
        there: (u32, u64),
    },
    Twice {
        key: u32,
        n: u64,
    },
    /// Nobody sent it.
    Invented {
        key: u32,
        n: u64,
    },
    OutOfOrder {
        key: u32,
        n: u64,
        after: u64,
    },
    Money {
        node: usize,
        total: i64,
    },
}

#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub acknowledged: usize,
    pub unanswered: usize,
    pub reads: usize,
    /// Acknowledged by a machine as it woke, of what was under way when it was stopped.
    pub slept: usize,
    /// In the order in which they began.
    pub reigns: Vec<Reign>,
    pub violations: Vec<Violation>,
}

impl Verdict {
    pub fn lost(&self) -> usize {
        self.reigns.iter().map(|reign| reign.lost).sum()
    }

    /// Commits acknowledged by an old primary after another was promoted.
    pub fn overlapping(&self) -> usize {
        let two = self.violations.iter().filter_map(|violation| match violation {
            Violation::TwoWriters { commits, .. } => Some(*commits),
            _ => None,
        });
        two.sum()
    }

    /// How often the lead went to another member.
    pub fn failovers(&self) -> usize {
        self.reigns.windows(2).filter(|pair| pair[0].server.node != pair[1].server.node).count()
    }
}

/// `content`: of the primary at the end; without it what is lost is not looked for.
pub fn check(history: &History, content: Option<&Content>, allowed: &Allowed) -> Verdict {
    let mut reigns = reigns(history);
    let mut violations = two_writers(history, &reigns);
    if let Some(content) = content {
        violations.extend(order(history, content));
        violations.extend(losses(history, content, allowed, &mut reigns));
    }
    let wrong: BTreeSet<(usize, i64)> =
        history.totals.iter().filter(|(_, _, total)| *total != MONEY).map(|(_, node, total)| (*node, *total)).collect();
    violations.extend(wrong.into_iter().map(|(node, total)| Violation::Money { node, total }));
    Verdict {
        acknowledged: history.acknowledged.len(),
        unanswered: history.unanswered.len(),
        reads: history.totals.len(),
        slept: history.acknowledged.iter().filter(|ack| history.slept(ack)).count(),
        reigns,
        violations,
    }
}

fn reigns(history: &History) -> Vec<Reign> {
    let mut all: BTreeMap<&Server, Reign> = BTreeMap::new();
    for ack in history.acknowledged.iter().filter(|ack| !history.slept(ack)) {
        let reign = all.entry(&ack.server).or_insert_with(|| Reign {
            server: ack.server.clone(),
            first: ack.received,
            last: ack.received,
            acknowledged: 0,
            lost: 0,
            lost_bytes: 0,
            handed_over: false,
        });
        reign.first = reign.first.min(ack.received);
        reign.last = reign.last.max(ack.received);
        reign.acknowledged += 1;
    }
    let mut reigns: Vec<Reign> = all.into_values().collect();
    reigns.sort_by_key(|reign| reign.first);
    for (at, node) in &history.switchovers {
        // The last that had begun there before the operator was told.
        let handed = reigns.iter_mut().rev().find(|reign| reign.server.node == *node && reign.first < *at);
        if let Some(reign) = handed {
            reign.handed_over = true;
        }
    }
    reigns
}

/// The time of an acknowledgement is when the client had it: the server gave it before. So the first of the new server
/// comes after its promotion, and what arrives from the old one after that was either given too late or long on its
/// way; on one machine nothing is long on its way unless its process was stopped, and then it was given too late too.
fn two_writers(history: &History, reigns: &[Reign]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, new) in reigns.iter().enumerate() {
        for old in &reigns[..index] {
            let late = history
                .acknowledged
                .iter()
                .filter(|ack| ack.server == old.server && ack.received > new.first && !history.slept(ack));
            let (commits, last) = late.fold((0, new.first), |(n, last), ack| (n + 1, last.max(ack.received)));
            if commits > 0 {
                violations.push(Violation::TwoWriters {
                    old: old.server.clone(),
                    new: new.server.clone(),
                    commits,
                    late: last - new.first,
                });
            }
        }
    }
    let mut timelines: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
    for reign in reigns {
        timelines.entry(reign.server.timeline).or_default().insert(reign.server.node);
    }
    let shared = timelines.into_iter().filter(|(_, nodes)| nodes.len() > 1);
    violations.extend(shared.map(|(timeline, nodes)| Violation::SharedTimeline { timeline, nodes }));
    violations
}

fn order(history: &History, content: &Content) -> Vec<Violation> {
    let mut violations = Vec::new();
    let acknowledged = history.acknowledged.iter().map(|ack| (ack.key, ack.n));
    let sent: HashSet<(u32, u64)> = acknowledged.chain(history.unanswered.iter().copied()).collect();
    let mut seen = HashSet::new();
    let mut last: HashMap<u32, u64> = HashMap::new();
    for &(key, n) in content.appends.iter().filter(|(key, _)| *key >= history.first_key) {
        if !seen.insert((key, n)) {
            violations.push(Violation::Twice { key, n });
            continue;
        }
        if !sent.contains(&(key, n)) {
            violations.push(Violation::Invented { key, n });
        }
        let before = last.entry(key).or_insert(n);
        if n < *before {
            violations.push(Violation::OutOfOrder { key, n, after: *before });
        }
        *before = n;
    }
    violations
}

fn losses(history: &History, content: &Content, allowed: &Allowed, reigns: &mut [Reign]) -> Vec<Violation> {
    let there: HashSet<(u32, u64)> = content.appends.iter().copied().collect();
    let mut violations = Vec::new();
    let newest = reigns.iter().map(|reign| reign.server.timeline).max().max(Some(content.server.timeline));
    for reign in reigns.iter_mut() {
        let of: Vec<&Ack> = history.acknowledged.iter().filter(|ack| ack.server == reign.server).collect();
        let survives = |ack: &&&Ack| there.contains(&(ack.key, ack.n));
        let missing: Vec<&&Ack> = of.iter().filter(|ack| !survives(ack)).collect();
        let Some(first) = missing.iter().min_by_key(|ack| ack.lsn) else { continue };
        reign.lost = missing.len();
        reign.lost_bytes = of.iter().map(|ack| ack.lsn).max().unwrap_or(first.lsn).saturating_sub(first.lsn);
        // WAL is kept up to a point and lost from there on: what was sent after a commit was acknowledged follows it.
        let earliest = missing.iter().map(|ack| ack.received).min().unwrap_or_default();
        if let Some(kept) = of.iter().filter(survives).find(|ack| ack.sent > earliest) {
            let (missing, there) = ((first.key, first.n), (kept.key, kept.n));
            violations.push(Violation::Hole { server: reign.server.clone(), missing, there });
        }
        // What the last position in the store vouched for: everything up to it, less the lag that is allowed.
        let published = reign.last.saturating_sub(allowed.unpublished);
        let vouched = of.iter().filter(|ack| ack.received <= published).map(|ack| ack.lsn).max().unwrap_or(0);
        let why = if allowed.synchronous {
            "replication was synchronous"
        } else if reign.handed_over {
            "it was handed over as planned"
        } else if Some(reign.server.timeline) == newest {
            "nobody took over from it"
        } else if first.lsn <= vouched.saturating_sub(allowed.bytes) {
            "it was further back than maximum_lag_on_failover allows"
        } else {
            continue;
        };
        violations.push(Violation::Lost { server: reign.server.clone(), commits: missing.len(), why });
    }
    violations
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{} on timeline {}", self.node + 1, self.timeline)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::TwoWriters { old, new, commits, late } => {
                write!(f, "two writers: {old} acknowledged {commits} commits up to {late:.1?} after the first of {new}")
            }
            Violation::SharedTimeline { timeline, nodes } => {
                write!(f, "two writers: members {nodes:?} (from 0) both acknowledged on timeline {timeline}")
            }
            Violation::Lost { server, commits, why } => {
                write!(f, "{commits} commits acknowledged by {server} are lost, although {why}")
            }
            Violation::Hole { server, missing, there } => write!(
                f,
                "of {server}, append {} of key {} is lost although the later {} of key {} is there",
                missing.1, missing.0, there.1, there.0
            ),
            Violation::Twice { key, n } => write!(f, "append {n} of key {key} is there twice"),
            Violation::Invented { key, n } => write!(f, "append {n} of key {key} is there and was never sent"),
            Violation::OutOfOrder { key, n, after } => write!(f, "append {n} of key {key} comes after {after}"),
            Violation::Money { node, total } => {
                write!(f, "the accounts add up to {total} on node{} instead of {MONEY}", node + 1)
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} commits acknowledged, {} unanswered, {} reads of all accounts, {} primaries in turn",
            self.acknowledged,
            self.unanswered,
            self.reads,
            self.reigns.len()
        )?;
        if self.slept > 0 {
            writeln!(f, "{} of them by a machine as it woke: they were under way when it was stopped", self.slept)?;
        }
        for reign in &self.reigns {
            let Reign { server, first, last, acknowledged, .. } = reign;
            write!(f, "  {first:>7.1?} to {last:>7.1?}  {server}: {acknowledged} acknowledged")?;
            if reign.lost > 0 {
                write!(f, ", {} lost ({} bytes of WAL)", reign.lost, reign.lost_bytes)?;
            }
            writeln!(f, "{}", if reign.handed_over { ", handed over" } else { "" })?;
        }
        match self.violations.len() {
            0 => write!(f, "no violation"),
            n => {
                write!(f, "{n} VIOLATIONS")?;
                self.violations.iter().take(20).try_for_each(|violation| write!(f, "\n  {violation}"))
            }
        }
    }
}
