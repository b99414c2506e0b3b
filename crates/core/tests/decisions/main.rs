//! The decision core as a whole: every rule by example, all combinations of the facts that matter, properties
//! over random ones, and three members deciding against each other.

mod closed_loop;
mod combinations;
mod failsafe;
mod forked;
mod model;
mod properties;
mod rules;
mod scenario;
mod sites;
