//! `surus fence`: the process that ends PostgreSQL when its agent cannot, and the proof that it can on this machine.

use std::process::ExitCode;

use surus_fence::{ServeOptions, Trial, own_program, serve, trial, victim};

use crate::cli::Fence;
use crate::failure::{Failure, OrFail, Outcome};
use crate::terminal::{Terminal, say};

/// What a fence is promised to reach.
const BOUND_MS: u128 = 100;

/// Before anything else of this program is touched: a fence is to stay small.
pub fn early() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != "fence" {
        return None;
    }
    let ended = match args.next()?.to_str()? {
        "--guard" => {
            let data_dir = args.next()?.into();
            let programs = args.map(|a| a.to_string_lossy().into_owned()).collect();
            serve(&ServeOptions { data_dir, programs })
        }
        "--victim" => victim(args.next()?.to_str()?),
        _ => return None,
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            crate::complain(&e.to_string());
            ExitCode::FAILURE
        }
    })
}

pub async fn fence(args: Fence, terminal: &mut Terminal) -> Outcome {
    if !args.test {
        return Err(Failure::Usage(
            "the agent starts its fence by itself; `surus fence --test` shows that it works on this machine".to_owned(),
        ));
    }
    let scratch = tempfile::tempdir().or_fail_with("a scratch directory cannot be made")?;
    let trials = trial(&own_program(), scratch.path()).await.or_fail()?;
    let mut well = true;
    for trial in &trials {
        well &= report(trial, terminal)?;
    }
    if let Some(first) = trials.first() {
        match first.state.standing.missing() {
            missing if missing.is_empty() => {
                say!(terminal, "memory locked, real-time priority, protected from the out-of-memory killer");
            }
            missing => say!(terminal, "works, but not as well as it could: {}", missing.join("; ")),
        }
        if let Some(kib) = first.fence_rss_kib {
            say!(terminal, "resident memory of the fence: {:.1} MB", kib as f64 / 1024.0);
        }
    }
    if well { Ok(()) } else { Err(Failure::Message(format!("the fence did not work within {BOUND_MS} ms"))) }
}

fn report(trial: &Trial, terminal: &mut Terminal) -> Outcome<bool> {
    let last_ms = trial.last_after.as_micros().div_ceil(1000);
    let fired = trial.state.fired;
    let well = fired.is_some_and(|f| f.gone) && last_ms <= BOUND_MS && trial.acknowledged > 0;
    let gone = fired.map_or("nobody was ended".to_owned(), |f| {
        format!("{} processes ended{}", f.processes, if f.gone { "" } else { ", some are still there" })
    });
    say!(
        terminal,
        "{}: {}: last acknowledgement {:.1} ms after the deadline, {gone}",
        if well { "ok" } else { "FAILED" },
        trial.case,
        trial.last_after.as_secs_f64() * 1000.0
    );
    Ok(well)
}
