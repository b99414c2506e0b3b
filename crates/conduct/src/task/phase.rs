//! What a change of leader is made of, for those who measure it.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The old leader's, while it still serves.
    Checkpoint,
    /// From there on until the server is gone, `before_stop` included: here nobody can write.
    Stop,
    /// The candidate has the last record.
    CatchUp,
    /// The lead is given up in the store.
    Release,
    /// From the first sight of a cluster without a leader until the lead is mine.
    Race,
    /// `pre_promote`, who is synchronous, the timeline, the fence and the watchdog.
    Prepare,
    /// From the order until the server accepts writes.
    Promote,
}

impl Phase {
    pub const ALL: [Phase; 7] =
        [Phase::Checkpoint, Phase::Stop, Phase::CatchUp, Phase::Release, Phase::Race, Phase::Prepare, Phase::Promote];

    pub fn word(self) -> &'static str {
        match self {
            Phase::Checkpoint => "checkpoint",
            Phase::Stop => "stop",
            Phase::CatchUp => "catch_up",
            Phase::Release => "release",
            Phase::Race => "race",
            Phase::Prepare => "prepare",
            Phase::Promote => "promote",
        }
    }

    /// Whether a change that somebody asked for has it (`true`), and one that nobody did (`false`).
    pub fn kinds(self) -> &'static [bool] {
        match self {
            Phase::Checkpoint | Phase::Stop | Phase::CatchUp | Phase::Release => &[true],
            Phase::Race | Phase::Prepare | Phase::Promote => &[true, false],
        }
    }
}
