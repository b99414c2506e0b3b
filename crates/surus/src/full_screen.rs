//! The whole terminal, with a thread that reads its keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};

/// Restores the terminal when dropped; a panic restores it before its message is printed.
pub struct FullScreen {
    pub terminal: DefaultTerminal,
    stop: Arc<AtomicBool>,
    keys: Option<JoinHandle<()>>,
}

impl FullScreen {
    /// `take` is given each event until it says that nobody wants more.
    pub fn open(take: impl FnMut(Event) -> bool + Send + 'static) -> FullScreen {
        let terminal = ratatui::init();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let keys = std::thread::spawn(move || read(take, &stopped));
        FullScreen { terminal, stop, keys: Some(keys) }
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(keys) = self.keys.take() {
            let _ = keys.join();
        }
        ratatui::restore();
    }
}

fn read(mut take: impl FnMut(Event) -> bool, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // In turns, so that the end is noticed without a key.
        match event::poll(Duration::from_millis(100)) {
            Ok(true) => {}
            Ok(false) => continue,
            // The terminal is gone.
            Err(_) => return,
        }
        let Ok(event) = event::read() else { return };
        if !take(event) {
            return;
        }
    }
}
