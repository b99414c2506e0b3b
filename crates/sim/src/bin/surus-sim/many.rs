//! Many seeds, on all processors.

use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use surus_sim::history::Violation;
use surus_sim::plan::Plan;
use surus_sim::run::run;
use surus_sim::world::clock::SECOND;
use surus_sim::{shrink, story};

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(15);

struct Board {
    next: u64,
    end: u64,
    /// Begun and not ended.
    under_way: BTreeSet<u64>,
    stop: bool,
    totals: Totals,
    failed: Vec<(u64, Violation)>,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    seeds: u64,
    simulated: u64,
    promotions: u64,
    acknowledged: u64,
    decisions: u64,
}

impl Board {
    fn begin(&mut self) -> Option<u64> {
        if self.stop || self.next >= self.end {
            return None;
        }
        self.next += 1;
        self.under_way.insert(self.next - 1);
        Some(self.next - 1)
    }

    /// All seeds before this one have ended.
    fn done_before(&self) -> u64 {
        self.under_way.first().copied().unwrap_or(self.next)
    }

    fn is_over(&self) -> bool {
        self.under_way.is_empty() && (self.stop || self.next >= self.end)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.hours();
        let Totals { seeds, promotions, decisions, acknowledged, .. } = self;
        write!(
            f,
            "{seeds} seeds, {hours:.1} simulated hours, {promotions} promotions, {decisions} decisions, {acknowledged} \
             acknowledged commits"
        )
    }
}

impl Totals {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    fn hours(&self) -> f64 {
        self.simulated as f64 / SECOND as f64 / 3600.0
    }
}

struct Shared {
    board: Mutex<Board>,
    changed: Condvar,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, keep_going: bool) {
        loop {
            let Some(seed) = self.board().begin() else { break };
            let ended = run(&Plan::of(seed), None, false);
            let mut board = self.board();
            board.under_way.remove(&seed);
            let t = &mut board.totals;
            t.seeds += 1;
            t.simulated += ended.simulated;
            t.promotions += ended.promotions;
            t.acknowledged += ended.acknowledged;
            t.decisions += ended.decisions;
            if let Some(violation) = ended.violation {
                println!("seed {seed}: {}: {}", violation.invariant, violation.what);
                board.failed.push((seed, violation));
                board.stop |= !keep_going;
            }
        }
        self.changed.notify_all();
    }

    /// Says now and then how far it is, so that a run that is broken off can be counted and gone on with.
    fn tell(&self, begun: Instant) {
        let mut board = self.board();
        while !board.is_over() {
            let told = self.changed.wait_timeout(board, PROGRESS).unwrap_or_else(PoisonError::into_inner);
            board = told.0;
            if told.1.timed_out() {
                let (t, failed) = (board.totals, board.failed.len());
                eprintln!(
                    "{t}, {failed} failed, {:.2} hours a second; from here: --from {} --seeds {}",
                    t.hours() / begun.elapsed().as_secs_f64(),
                    board.done_before(),
                    board.end - board.done_before()
                );
            }
        }
    }
}

pub fn many(from: u64, seeds: u64, keep_going: bool) -> ExitCode {
    let begun = Instant::now();
    let board = Board {
        next: from,
        end: from.saturating_add(seeds),
        under_way: BTreeSet::new(),
        stop: false,
        totals: Totals::default(),
        failed: vec![],
    };
    let shared = Shared { board: Mutex::new(board), changed: Condvar::new() };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| shared.work(keep_going));
        }
        shared.tell(begun);
    });
    let mut board = shared.board.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (totals, took) = (board.totals, begun.elapsed().as_secs_f64());
    println!("{totals} in {took:.1} s: {:.2} simulated hours a second", totals.hours() / took);
    board.failed.sort_by_key(|(seed, _)| *seed);
    let Some((seed, violation)) = board.failed.first() else {
        println!("all promises held");
        return ExitCode::SUCCESS;
    };
    let list: Vec<String> = board.failed.iter().map(|(seed, _)| seed.to_string()).collect();
    println!("{} of them failed: {}", list.len(), list.join(", "));
    println!("the first of them, made small:");
    let (plan, violation) = shrink::shrink(&Plan::of(*seed), violation, None);
    println!("{}", story::tell(&plan, &violation, None));
    ExitCode::FAILURE
}
