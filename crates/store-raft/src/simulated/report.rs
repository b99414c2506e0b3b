//! What a run of a simulated group was like.

use std::collections::BTreeMap;
use std::fmt;

use super::history::Counts;

#[derive(Default, Debug)]
pub struct Report {
    pub seed: u64,
    pub machines: usize,
    /// Simulated seconds.
    pub seconds: u64,
    /// Those that were told of.
    pub hours: u64,
    pub faults: BTreeMap<&'static str, u64>,
    /// Processes that ended themselves, because the disk failed or the consensus did.
    pub aborts: u64,
    pub rests: u64,
    /// Milliseconds from the end of the faults until a write was acknowledged, the longest.
    pub back_after: u64,
    /// The same until the right members voted and all had the log.
    pub whole_after: u64,
    pub counts: Counts,
    pub violation: Option<String>,
    /// What happened last, with simulated seconds.
    pub last: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        let faults: u64 = self.faults.values().sum();
        writeln!(f, "seed {}: {} machines, {} simulated seconds", self.seed, self.machines, self.seconds)?;
        let each: Vec<String> = self.faults.iter().map(|(name, n)| format!("{name} {n}")).collect();
        writeln!(f, "  {faults} faults: {}", each.join(", "))?;
        writeln!(f, "  {} processes ended themselves; {} terms with a leader", self.aborts, c.terms)?;
        writeln!(
            f,
            "  register: {} writes acknowledged, {} conflicts, {} outcomes unknown, {} without effect, {} reads, {} seen by watches",
            c.writes, c.conflicts, c.unknown, c.refused, c.reads, c.watched
        )?;
        writeln!(f, "  lead: taken {} times, {} renewals of leases", c.leads, c.renewals)?;
        writeln!(f, "  {} records of the next version's format", c.later)?;
        writeln!(
            f,
            "  {} rests: a write after {} ms at the most, whole with the right voters after {} ms",
            self.rests, self.back_after, self.whole_after
        )?;
        match &self.violation {
            None => write!(f, "  no promise was broken"),
            Some(what) => write!(f, "  BROKEN: {what}\n  {}", self.last.join("\n  ")),
        }
    }
}
