//! How the leader moves the cluster from one store to another: the order of the requests, and what follows from each answer.
//!
//! The old store decides, in one transaction that only the leader's lock lets through: [`Request::Decide`]. From then on
//! nobody can take the lead there, and only from then on does anybody act on what the new store says. What the order is for:
//!
//! - The lead is frozen before the session in the new store is opened. Renewals in the old store prove nothing once the
//!   decision may have been made, so whatever a server here was promised ends before the new store would give the lead to
//!   somebody else, also when this process stands still between the decision and the switch.
//! - The register is rewritten by every attempt, and the decision compares its version: a decision of an attempt that was
//!   given up does nothing when it arrives late. The same for the copy, and the version of the copy's mark, which is read
//!   before the old store has said that this attempt still is the latest: a leader that was deposed meanwhile must not copy
//!   over what its successor copied.
//! - The decision compares the leader key's version too, not its name alone: I may have lost the lead and got it again, or
//!   may be another process, which has a lead that is not frozen.
//! - When it is not known whether the decision was made, the lead stays frozen until that is known. It may end meanwhile.

/// One thing to do, and to be answered. None may be given up before it is known whether it may still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// In the old store: look who leads, and write into the register that I begin an attempt.
    Claim,
    /// Stop renewals from prolonging the lead.
    Freeze,
    /// A session in the new store, and what there is of the cluster in it.
    Open,
    /// Read the old store: whether this attempt is still the latest and the lead mine, and what is to be copied.
    Gather,
    /// The permanent keys, the members' and my lead into the new store, if nobody else has copied meanwhile.
    Copy,
    /// In the old store, if the register, the leader key and all that was copied are as they were: the new one counts.
    Decide,
    /// In the old store: change the register, if it is still that of this attempt. A decision cannot be made by it any more.
    Withdraw,
    /// Read what the register says.
    Look,
    /// End the session in the new store, as far as that is possible.
    Close,
    /// Let renewals prolong the lead again.
    Thaw,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// It had no effect, because things are not as they were.
    Conflict(String),
    /// It had no effect.
    Failed(String),
    /// It had its effect, or has none, or will have it.
    Unknown(String),
    /// To [`Request::Look`]: the decision was made.
    Moved,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Ask(Request),
    /// The same once more, after a moment: nothing else helps.
    Again(Request),
    /// The new store counts. The lead stays frozen until this process works with the new store.
    Moved,
    /// The old store counts as before.
    NotMoved(String),
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mover {
    next: Next,
    why: String,
}

impl Default for Mover {
    fn default() -> Mover {
        Mover { next: Next::Ask(Request::Claim), why: String::new() }
    }
}

impl Mover {
    pub fn next(&self) -> &Next {
        &self.next
    }

    /// The answer to the request that [`Mover::next`] named.
    pub fn answered(&mut self, answer: Answer) {
        use Request::{Claim, Close, Copy, Decide, Freeze, Gather, Look, Open, Thaw, Withdraw};
        let (Next::Ask(asked) | Next::Again(asked)) = self.next else { return };
        if let Answer::Conflict(why) | Answer::Failed(why) | Answer::Unknown(why) = &answer
            && self.why.is_empty()
        {
            self.why.clone_from(why);
        }
        self.next = match (asked, answer) {
            (Claim, Answer::Done) => Next::Ask(Freeze),
            // An attempt that was begun without its knowing decides nothing.
            (Claim, _) | (Thaw, _) => Next::NotMoved(std::mem::take(&mut self.why)),
            (Freeze, Answer::Done) => Next::Ask(Open),
            (Open, Answer::Done) => Next::Ask(Gather),
            (Gather, Answer::Done) => Next::Ask(Copy),
            (Copy, Answer::Done) => Next::Ask(Decide),
            (Decide, Answer::Done) | (Look, Answer::Moved) => Next::Moved,
            (Freeze, _) => Next::Ask(Thaw),
            (Open | Gather | Copy, _) => Next::Ask(Close),
            (Decide, Answer::Unknown(_)) => Next::Ask(Withdraw),
            (Decide, _) => Next::Ask(Close),
            (Withdraw, Answer::Done) => Next::Ask(Close),
            // By the decision, by an earlier withdrawal, or by an operator.
            (Withdraw, Answer::Conflict(_)) => Next::Ask(Look),
            (Withdraw, _) => Next::Again(Withdraw),
            // The register is not that of this attempt any more.
            (Look, Answer::Done) => Next::Ask(Close),
            (Look, _) => Next::Again(Look),
            (Close, _) => Next::Ask(Thaw),
        };
    }
}

#[cfg(test)]
mod tests;
