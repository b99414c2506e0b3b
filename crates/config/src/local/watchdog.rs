//! `watchdog` (`spec/config.md §4.9`) and `fence`, which does without hardware what a watchdog is for.

use std::path::PathBuf;

use crate::reader::Section;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WatchdogMode {
    Off,
    #[default]
    Automatic,
    Required,
}

impl WatchdogMode {
    pub fn word(self) -> &'static str {
        match self {
            WatchdogMode::Off => "off",
            WatchdogMode::Automatic => "automatic",
            WatchdogMode::Required => "required",
        }
    }
}

/// Of the fence. Unlike a watchdog it works on every machine, so a member without one does not lead by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FenceMode {
    Off,
    Automatic,
    #[default]
    Required,
}

impl FenceMode {
    pub fn word(self) -> &'static str {
        match self {
            FenceMode::Off => "off",
            FenceMode::Automatic => "automatic",
            FenceMode::Required => "required",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watchdog {
    pub mode: WatchdogMode,
    pub device: PathBuf,
    /// Seconds; -1 stands for half of ttl. Absent: 5, or a quarter of a ttl that is shorter than 20.
    pub safety_margin: Option<i64>,
    /// `default`, or `testing` for a file in place of the device.
    pub driver: String,
}

fn mode(word: Option<&str>) -> WatchdogMode {
    match word {
        Some("off") => WatchdogMode::Off,
        Some("required") => WatchdogMode::Required,
        _ => WatchdogMode::Automatic,
    }
}

/// A word, or a section with the word under `mode`, as for the watchdog.
pub(super) fn fence(root: &Section<'_>) -> FenceMode {
    let section = root.section("fence");
    let word = if section.exists() { section.word("mode") } else { root.word("fence") };
    match mode(word) {
        WatchdogMode::Off => FenceMode::Off,
        WatchdogMode::Automatic => FenceMode::Automatic,
        WatchdogMode::Required => FenceMode::Required,
    }
}

pub(super) fn read(root: &Section<'_>) -> Watchdog {
    let s = root.section("watchdog");
    Watchdog {
        mode: mode(s.word("mode")),
        device: s.path("device").unwrap_or_default(),
        safety_margin: s.int("safety_margin"),
        driver: s.text("driver").unwrap_or_default(),
    }
}
