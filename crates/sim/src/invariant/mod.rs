//! The seven promises (`docs/proof.md`), one file each, as checks on what happens in the world.
//! The comment at the head of each file says exactly what the promise means in simulation.

mod comes_back;
mod excuse;
mod explained;
mod no_needless_failover;
mod no_silent_loss;
mod nothing_lost;
mod one_writer;
mod paused;

use crate::history::Happened;
use crate::world::World;

pub use comes_back::{STAYS, well};

pub trait Invariant: Send {
    fn name(&self) -> &'static str;

    /// What is wrong with that, if anything is.
    fn sees(&mut self, world: &World, what: &Happened) -> Option<String>;

    /// Acknowledged commits that were found missing, and not told before.
    fn lost_now(&mut self) -> u64 {
        0
    }
}

pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(one_writer::OneWriter::default()),
        Box::new(nothing_lost::NothingLost::default()),
        Box::new(no_needless_failover::NoNeedlessFailover::default()),
        Box::new(comes_back::ComesBack::default()),
        Box::new(no_silent_loss::NoSilentLoss::default()),
        Box::new(explained::Explained::default()),
        Box::new(paused::Paused::default()),
    ]
}
