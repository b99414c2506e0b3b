//! Connections between simulated machines, as TCP gives them: bytes arrive in order or wait for the link to come back; an
//! end that died in an orderly kernel closes its connections, a machine without power says nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::chance::Random;
use super::{Here, World};
use crate::handshake::Transport;

#[derive(Default)]
pub struct Network {
    /// By the end that reads.
    flows: BTreeMap<u64, Flow>,
    next: u64,
    packets: BTreeMap<(u64, u64), Packet>,
    held: Vec<Packet>,
    /// From whom to whom nothing gets.
    pub cut: BTreeSet<(usize, usize)>,
    /// Microseconds on top, at the most, by the machine at either end.
    pub slow: BTreeMap<usize, u64>,
    listening: BTreeMap<usize, Listening>,
}

#[derive(Default)]
struct Listening {
    life: u64,
    arrived: VecDeque<(u64, u64, usize)>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Flow {
    arrived: VecDeque<u8>,
    ended: bool,
    broken: bool,
    waker: Option<Waker>,
}

struct Packet {
    from: usize,
    to: usize,
    what: What,
}

type Answer = oneshot::Sender<Result<(u64, u64), Error>>;

enum What {
    Syn {
        answer: Answer,
    },
    Answered {
        answer: Answer,
        result: Result<(u64, u64), Error>,
    },
    /// `flow` is read at the receiving end; `back` by who sent it.
    Data {
        flow: u64,
        back: u64,
        bytes: Vec<u8>,
    },
    End {
        flow: u64,
    },
    Reset {
        flow: u64,
    },
}

impl Flow {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Network {
    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn send(&mut self, due: u64, packet: Packet) {
        let id = self.id();
        self.packets.insert((due, id), packet);
    }

    fn delay(&self, random: &mut Random, from: usize, to: usize) -> u64 {
        let slow = self.slow.get(&from).max(self.slow.get(&to)).copied().unwrap_or(0);
        random.between(200, 1500) + random.below(slow)
    }

    /// What waited for a link goes on when it is there again.
    pub fn heal(&mut self, now: u64) {
        for packet in std::mem::take(&mut self.held) {
            self.send(now, packet);
        }
    }

    pub fn deliver(&mut self, now: u64, random: &mut Random, up: impl Fn(usize) -> Option<u64>) {
        while let Some(entry) = self.packets.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let packet = entry.remove();
            if self.cut.contains(&(packet.from, packet.to)) {
                self.held.push(packet);
                continue;
            }
            let Packet { from, to, what } = packet;
            // Without power nobody hears anything.
            let Some(life) = up(to) else { continue };
            let back = now + self.delay(random, to, from);
            match what {
                What::Syn { answer } => {
                    let heard = self.listening.get(&to).is_some_and(|l| l.life == life);
                    let result = match heard {
                        true => {
                            let (up, down) = (self.id(), self.id());
                            self.flows.insert(up, Flow::default());
                            self.flows.insert(down, Flow::default());
                            let listening = self.listening.entry(to).or_default();
                            listening.arrived.push_back((up, down, from));
                            if let Some(waker) = listening.waker.take() {
                                waker.wake();
                            }
                            Ok((down, up))
                        }
                        false => Err(Error::from(ErrorKind::ConnectionRefused)),
                    };
                    self.send(back, Packet { from: to, to: from, what: What::Answered { answer, result } });
                }
                What::Answered { answer, result } => {
                    if let Err(Ok((read, _))) = answer.send(result) {
                        // Who asked is gone.
                        self.flows.remove(&read);
                    }
                }
                What::Data { flow, back: other, bytes } => match self.flows.get_mut(&flow) {
                    Some(flow) => {
                        flow.arrived.extend(bytes);
                        flow.wake();
                    }
                    None => self.send(back, Packet { from: to, to: from, what: What::Reset { flow: other } }),
                },
                What::End { flow } => {
                    if let Some(flow) = self.flows.get_mut(&flow) {
                        flow.ended = true;
                        flow.wake();
                    }
                }
                What::Reset { flow } => {
                    if let Some(flow) = self.flows.get_mut(&flow) {
                        flow.broken = true;
                        flow.wake();
                    }
                }
            }
        }
    }
}

/// One end of a connection.
struct Stream {
    world: Arc<World>,
    here: Here,
    peer: usize,
    read: u64,
    write: u64,
    /// Bytes do not overtake each other.
    last: u64,
}

impl Stream {
    fn send(&mut self, what: What) {
        let mut inner = self.world.lock();
        let (now, me) = (inner.now, self.here.machine);
        let inner = &mut *inner;
        self.last = self.last.max(now + inner.network.delay(&mut inner.random, me, self.peer));
        inner.network.send(self.last, Packet { from: me, to: self.peer, what });
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        let mut inner = self.world.lock();
        let Some(flow) = inner.network.flows.get_mut(&self.read) else {
            return Poll::Ready(Err(Error::from(ErrorKind::ConnectionReset)));
        };
        if flow.broken {
            return Poll::Ready(Err(Error::from(ErrorKind::ConnectionReset)));
        }
        if flow.arrived.is_empty() && !flow.ended {
            flow.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let many = buf.remaining().min(flow.arrived.len());
        let bytes: Vec<u8> = flow.arrived.drain(..many).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize, Error>> {
        // A process that is dead sends nothing more.
        let broken = self.here.is_dead() || self.world.lock().network.flows.get(&self.read).is_none_or(|f| f.broken);
        if broken {
            return Poll::Ready(Err(Error::from(ErrorKind::BrokenPipe)));
        }
        let (flow, back) = (self.write, self.read);
        self.send(What::Data { flow, back, bytes: buf.to_vec() });
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (read, on) = {
            let mut inner = self.world.lock();
            (inner.network.flows.remove(&self.read), inner.machines[self.here.machine].on)
        };
        drop(read);
        if on {
            let flow = self.write;
            self.send(What::End { flow });
        }
    }
}

pub struct Listener(Here);

impl Listener {
    pub async fn accept(&self) -> Box<dyn Transport> {
        let here = &self.0;
        let (read, write, peer) = std::future::poll_fn(|cx| {
            let mut inner = here.world.lock();
            let listening = inner.network.listening.entry(here.machine).or_default();
            match listening.arrived.pop_front() {
                Some(arrived) if listening.life == here.life => Poll::Ready(arrived),
                _ => {
                    listening.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        here.stream(read, write, peer)
    }
}

impl Here {
    fn stream(&self, read: u64, write: u64, peer: usize) -> Box<dyn Transport> {
        Box::new(Stream { world: self.world.clone(), here: self.clone(), peer, read, write, last: 0 })
    }

    pub fn listen(&self, _addr: &str) -> Listener {
        let listening = Listening { life: self.life, ..Listening::default() };
        self.world.lock().network.listening.insert(self.machine, listening);
        Listener(self.clone())
    }

    pub async fn connect(&self, addr: &str) -> Result<Box<dyn Transport>, Error> {
        let peer = super::machine_of(addr).ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        let (answer, answered) = oneshot::channel();
        {
            let mut inner = self.world.lock();
            let inner = &mut *inner;
            let due = inner.now + inner.network.delay(&mut inner.random, self.machine, peer);
            inner.network.send(due, Packet { from: self.machine, to: peer, what: What::Syn { answer } });
        }
        match answered.await {
            Ok(result) => result.map(|(read, write)| self.stream(read, write, peer)),
            // It reached nobody who could say no.
            Err(_) => std::future::pending().await,
        }
    }
}
