use surus_core::facts::Lead;
use tempfile::TempDir;

use super::*;

const TIMING: Timing =
    Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), retry_timeout: Duration::from_secs(10) };
const SOON: Duration = Duration::from_secs(10);

struct Machine {
    dir: TempDir,
    lease: watch::Sender<LeaseState>,
    keeper: WatchdogKeeper,
}

impl Machine {
    fn with(mode: WatchdogMode, change: impl FnOnce(&mut Watchdog)) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("watchdog");
        std::fs::write(&device, "").unwrap();
        let mut config = Watchdog { mode, device, driver: "testing".into(), ..Watchdog::default() };
        change(&mut config);
        let (lease, seen) = watch::channel(LeaseState::default());
        Machine { dir, lease, keeper: WatchdogKeeper::start(config, TIMING, seen) }
    }

    fn heard(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("watchdog")).unwrap()
    }

    /// The lead is mine by a renewal that was sent so long ago.
    fn renewed(&self, ago: Duration) {
        let sent = boot_now() - ago;
        self.lease.send_modify(|s| {
            s.renewed = Some((sent, ago));
            s.lead = Some(Lead { until: sent + Duration::from_secs(27), version: 1 });
        });
    }

    fn timing(&self, timing: Timing) {
        let config = self.keeper.want.borrow().config.clone();
        self.keeper.set(&config, timing);
    }

    async fn until(&self, what: impl FnMut(&WatchdogState) -> bool) {
        within(SOON, self.keeper.subscribe().wait_for(what)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn started_kept_alive_and_stopped() {
    let machine = Machine::with(WatchdogMode::Required, |_| {});
    machine.keeper.settled().await;
    assert_eq!(machine.keeper.fact(), Fence::Working);
    assert_eq!(machine.heard(), "", "looking at it does not start it");
    machine.renewed(Duration::ZERO);
    machine.keeper.started().await.unwrap();
    assert_eq!(machine.heard(), "Ctimeout=25\n1");
    tokio::time::sleep(Duration::from_millis(5)).await;
    machine.renewed(Duration::ZERO);
    machine.until(|s| s.keepalives == 2).await;
    machine.renewed(Duration::from_secs(10));
    let timing = Timing { ttl: Duration::from_secs(21), ..TIMING };
    machine.timing(timing);
    tokio::task::yield_now().await;
    assert_eq!(machine.heard(), "Ctimeout=25\n11", "neither an old renewal nor a setting keeps it alive");
    tokio::time::sleep(Duration::from_millis(5)).await;
    machine.renewed(Duration::ZERO);
    machine.until(|s| s.running == Some(Duration::from_secs(16))).await;
    assert_eq!(machine.keeper.shown().document().unwrap()["state"], "running");
    machine.keeper.guard(false);
    machine.until(|s| s.running.is_none()).await;
    assert_eq!(machine.heard(), "Ctimeout=25\n11Ctimeout=16\n1V");
    machine.renewed(Duration::ZERO);
    machine.keeper.close().await;
    assert!(machine.heard().ends_with('V'), "a standby has none");
}

#[tokio::test]
async fn without_a_device() {
    for (mode, leads) in [(WatchdogMode::Off, true), (WatchdogMode::Automatic, true), (WatchdogMode::Required, false)] {
        let machine = Machine::with(mode, |c| c.device = "/nowhere/watchdog".into());
        if mode != WatchdogMode::Off {
            machine.keeper.settled().await;
        }
        machine.renewed(Duration::ZERO);
        assert_eq!(machine.keeper.started().await.is_ok(), leads, "{mode:?}");
        assert_eq!(machine.keeper.fact().forbids().is_none(), leads, "{mode:?}");
        assert_eq!(machine.keeper.shown().document().is_none(), leads, "{mode:?}");
    }
}

#[tokio::test]
async fn a_device_that_cannot_be_opened_counts_as_broken_for_a_while() {
    // A FIFO that nobody reads.
    let machine = Machine::with(WatchdogMode::Required, |c| {
        c.device.set_extension("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &c.device, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    });
    machine.keeper.settled().await;
    assert_eq!(machine.keeper.fact(), Fence::Working);
    machine.renewed(Duration::ZERO);
    let why = machine.keeper.started().await.unwrap_err();
    assert!(why.starts_with("the watchdog could not be activated: ") && why.contains("watchdog.fifo"), "{why}");
    machine.renewed(Duration::ZERO);
    machine.timing(Timing { ttl: Duration::from_secs(40), ..TIMING });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(machine.keeper.fact().forbids().is_some());
}
