//! `expect ...`.

use crate::parse::Names;
use crate::statement::{Condition, Expectation, Hold, Who};
use crate::words::{Parsed, Words};

const EXPECTED: &str = "what to expect: primary, all streaming, writes, no two writers, no failover, \
     nothing acknowledged is lost, losses within settings, or a member and what it is";

impl Names {
    pub(crate) fn expectation(&self, words: &mut Words) -> Parsed<Expectation<Who>> {
        let condition = self.condition(words)?;
        let hold = if words.take("within") {
            Hold::Within(words.duration()?)
        } else if words.take("for") {
            Hold::For(words.duration()?)
        } else if words.is_done() {
            Hold::Now
        } else {
            return Err(words.error("\"within\", \"for\" or the end of the line"));
        };
        Ok(Expectation { condition, hold })
    }

    fn condition(&self, words: &mut Words) -> Parsed<Condition<Who>> {
        for (phrase, condition) in PHRASES {
            if words.take(phrase) {
                return Ok(condition.clone());
            }
        }
        if words.take("primary") {
            return if words.take("is not") {
                Ok(Condition::PrimaryIsNot(self.who(words)?))
            } else if words.take("is") {
                Ok(Condition::PrimaryIs(self.who(words)?))
            } else {
                self.state(words, Who::Role(crate::statement::Role::Primary)).or(Ok(Condition::Primary))
            };
        }
        let who = match words.peek() {
            None => return Err(words.error(EXPECTED)),
            Some("no" | "nothing" | "losses") => return Err(words.error(EXPECTED)),
            Some(_) => self.who(words)?,
        };
        self.state(words, who)
    }

    fn state(&self, words: &mut Words, who: Who) -> Parsed<Condition<Who>> {
        Ok(if words.take("streaming") {
            Condition::Streaming(who)
        } else if words.take("running") {
            Condition::Running(who)
        } else if words.take("down") {
            Condition::Down(who)
        } else if words.take("read-only") {
            Condition::ReadOnly(who)
        } else {
            return Err(words.error("its state: streaming, running, down or read-only"));
        })
    }
}

const PHRASES: &[(&str, Condition<Who>)] = &[
    ("all streaming", Condition::AllStreaming),
    ("a synchronous standby", Condition::SynchronousStandby),
    ("writes", Condition::Writes),
    ("no two writers", Condition::NoTwoWriters),
    ("no failover", Condition::NoFailover),
    ("nothing acknowledged is lost", Condition::NothingLost),
    ("losses within settings", Condition::LossWithinSettings),
];
