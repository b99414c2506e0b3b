//! `watchdog` (`spec/config.md §4.9`) and `fence`, which does without hardware what a watchdog is for.

use std::path::PathBuf;

use crate::reader::{Reader, Section};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WatchdogMode {
    Off,
    #[default]
    Automatic,
    Required,
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    pub mode: WatchdogMode,
    pub device: PathBuf,
    /// Seconds; -1 stands for half of ttl.
    pub safety_margin: i64,
    /// `default`, or `testing` for a file in place of the device.
    pub driver: String,
}

impl Default for Watchdog {
    fn default() -> Self {
        Watchdog {
            mode: WatchdogMode::Automatic,
            device: PathBuf::from("/dev/watchdog"),
            safety_margin: 5,
            driver: "default".to_owned(),
        }
    }
}

const MODES: &[(&str, WatchdogMode)] = &[
    ("off", WatchdogMode::Off),
    ("automatic", WatchdogMode::Automatic),
    ("required", WatchdogMode::Required),
    ("auto", WatchdogMode::Automatic),
    ("require", WatchdogMode::Required),
    ("disable", WatchdogMode::Off),
    ("disabled", WatchdogMode::Off),
    ("false", WatchdogMode::Off),
    ("no", WatchdogMode::Off),
];

/// A word, or a section with the word under `mode`, as for the watchdog.
pub(super) fn fence(root: &mut Section<'_>, r: &mut Reader) -> FenceMode {
    let section = root.node().and_then(|n| n.get("fence")).is_some_and(|n| n.entries().is_some());
    let mode = if section {
        let mut s = root.section(r, "fence");
        let mode = s.choice(r, "mode", MODES);
        s.finish(r);
        mode
    } else {
        root.choice(r, "fence", MODES)
    };
    mode.map_or(FenceMode::default(), |mode| match mode {
        WatchdogMode::Off => FenceMode::Off,
        WatchdogMode::Automatic => FenceMode::Automatic,
        WatchdogMode::Required => FenceMode::Required,
    })
}

pub(super) fn read(root: &mut Section<'_>, r: &mut Reader) -> Watchdog {
    let mut s = root.section(r, "watchdog");
    let default = Watchdog::default();
    let watchdog = Watchdog {
        mode: s.choice(r, "mode", MODES).unwrap_or(default.mode),
        device: s.path(r, "device").unwrap_or(default.device),
        safety_margin: s
            .int(r, "safety_margin", "a whole number of seconds, or -1 for half of ttl", -1..=i64::from(u32::MAX))
            .unwrap_or(default.safety_margin),
        driver: s
            .choice(r, "driver", &[("default", "default"), ("testing", "testing")])
            .map_or(default.driver, str::to_owned),
    };
    s.finish(r);
    watchdog
}
