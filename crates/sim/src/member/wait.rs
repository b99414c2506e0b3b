//! Waiting on virtual time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use surus_core::BootTime;

use crate::world::clock::True;
use crate::world::{Sim, World};

pub struct Sleep {
    sim: Sim,
    at: True,
    armed: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut w = self.sim.lock();
        if w.now >= self.at {
            return Poll::Ready(());
        }
        if !self.armed {
            let waker = cx.waker().clone();
            w.at(self.at, move |_| waker.wake());
            drop(w);
            self.armed = true;
        }
        Poll::Pending
    }
}

/// As long as the machine's clock says.
pub fn sleep(sim: &Sim, node: usize, time: Duration) -> Sleep {
    let at = sim.with(|w| w.now.saturating_add(w.nodes[node].clock.true_span(time)));
    Sleep { sim: sim.clone(), at, armed: false }
}

pub fn sleep_until(sim: &Sim, node: usize, at: BootTime) -> Sleep {
    let at = sim.with(|w| w.nodes[node].clock.when(at, w.now) + 1);
    Sleep { sim: sim.clone(), at, armed: false }
}

pub fn pause(sim: &Sim, us: True) -> Sleep {
    let at = sim.with(|w| w.now + us);
    Sleep { sim: sim.clone(), at, armed: false }
}

/// Until `look` finds something; it looks again whenever something about the machine changes.
pub async fn until<T>(sim: &Sim, node: usize, mut look: impl FnMut(&mut World) -> Option<T>) -> T {
    std::future::poll_fn(|cx| {
        let mut w = sim.lock();
        match look(&mut w) {
            Some(found) => Poll::Ready(found),
            None => {
                w.nodes[node].wait(cx.waker());
                Poll::Pending
            }
        }
    })
    .await
}
