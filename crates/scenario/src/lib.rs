//! Scenario files: a failure, told in the words of an operator, that runs in the simulator and against real processes.
//!
//! [`parse`] reads the text; [`run`] plays it on a [`World`], of which there are two. Whatever the language can say is a
//! method of that trait or a variant it has to match, so a verb that one side lacks does not compile there. What a
//! world cannot do where it runs it says with [`Trouble::NotAvailable`]; it is never skipped.
//!
//! No runtime and no clock of its own: the futures of [`run`] wait only for the world.

mod display;
mod expect;
mod parse;
mod run;
mod statement;
mod words;
mod world;

pub use parse::parse;
pub use run::{End, now_or_never, play, run};
pub use statement::{
    Condition, Expectation, Hold, LinkState, Operation, Part, Place, Role, Scenario, Setup, Statement, Step, Store,
    Target, Who,
};
pub use words::SyntaxError;
pub use world::{Trouble, World};
