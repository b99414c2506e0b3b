//! Where a scenario runs: the simulator, or real processes.

use std::fmt;
use std::time::Duration;

use crate::statement::{Condition, LinkState, Operation, Part, Place, Role, Setup, Step};

/// Why a verb was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This world, or the machine it runs on, cannot do it; says why.
    NotAvailable(String),
    /// It was tried and went wrong.
    Failed(String),
}

impl Trouble {
    pub fn failed(why: impl fmt::Display) -> Trouble {
        Trouble::Failed(format!("{why:#}"))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NotAvailable(why) => write!(f, "not available here: {why}"),
            Trouble::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Trouble {}

/// Every verb of the language once. Members are named, roles resolved: by [`World::find`], asked for at the line that
/// names the role. No method has a default on purpose.
#[allow(async_fn_in_trait, reason = "both worlds run it on one thread")]
pub trait World {
    /// Directories, ports, store; no agent runs yet.
    async fn cluster(&mut self, setup: &Setup) -> Result<(), Trouble>;
    /// All agents, and waits until one member leads and all others stream from it.
    async fn start_all(&mut self) -> Result<(), Trouble>;

    /// Since whenever; only differences count.
    fn now(&self) -> Duration;
    async fn wait_until(&mut self, time: Duration) -> Result<(), Trouble>;
    /// A moment, between two looks at a condition.
    async fn pause_looking(&mut self);
    /// Told before each statement, for a log or a trace.
    fn begins(&mut self, step: &Step);

    /// Who has the role now, in the order of names; at least one, else it is an error.
    async fn find(&mut self, role: Role) -> Result<Vec<String>, Trouble>;

    async fn start(&mut self, part: Part, of: &str) -> Result<(), Trouble>;
    async fn stop(&mut self, of: &str) -> Result<(), Trouble>;
    async fn kill(&mut self, part: Part, of: &str) -> Result<(), Trouble>;
    async fn freeze(&mut self, part: Part, of: &str) -> Result<(), Trouble>;
    async fn thaw(&mut self, part: Part, of: &str) -> Result<(), Trouble>;

    async fn link(&mut self, from: &str, to: &Place<String>, one_way: bool, state: LinkState) -> Result<(), Trouble>;
    async fn heal(&mut self) -> Result<(), Trouble>;

    async fn fill_disk(&mut self, of: &str) -> Result<(), Trouble>;
    async fn hang_disk(&mut self, of: &str) -> Result<(), Trouble>;
    async fn free_disk(&mut self, of: &str) -> Result<(), Trouble>;
    async fn step_clock(&mut self, of: &str, by: Duration, back: bool) -> Result<(), Trouble>;

    async fn operate(&mut self, operation: &Operation<String>, wait: bool) -> Result<(), Trouble>;

    async fn write(&mut self) -> Result<(), Trouble>;
    async fn stop_writing(&mut self) -> Result<(), Trouble>;
    /// [`Condition::NoFailover`] counts from here.
    async fn mark(&mut self) -> Result<(), Trouble>;

    /// One look. `Ok(Err(why))`: not so at this moment. `since` is when the line was reached.
    async fn look(&mut self, condition: &Condition<String>, since: Duration) -> Result<Result<(), String>, Trouble>;
}
