//! `watchdog` (`spec/config.md §4.9`).

use std::path::PathBuf;

use crate::reader::{Reader, Section};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WatchdogMode {
    Off,
    #[default]
    Automatic,
    Required,
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
