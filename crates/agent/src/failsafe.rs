//! What this member has promised whom, and the task that asks others to vouch for it.
//!
//! Promises are given by the REST server at once, whatever the loop is busy with. A process does not know what an earlier
//! one promised: the longest time that was ever possible is in a small file beside the data directory, written before
//! anything is promised for that long, and a new process promises nothing until so much has passed.

mod asked;
mod shown;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use surus_api::FailsafeRequest;
use surus_conduct::failsafe::{ANSWER, Answers, Asking};
use surus_core::failsafe::{CONSENT, Electors, Kind, Promise, Promises};
use surus_core::settings::Timing;
use surus_core::{BootTime, Lsn, MemberName};
use surus_store::clock::boot_now;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

pub use self::asked::members_may_ask;
pub use self::shown::Shown;
use crate::lease::{LeaseKeeper, LeaseState};

/// What a primary that goes on without the store said with its last question.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: BootTime,
    pub request: FailsafeRequest,
}

struct Inner {
    me: MemberName,
    path: PathBuf,
    promises: Mutex<Promises>,
    /// What the file says, once it is certain.
    longest: watch::Sender<Duration>,
    /// What it is to say.
    wanted: watch::Sender<Duration>,
    heard: Mutex<Option<Heard>>,
    /// What members that were asked to vouch for this one said, while they are asked.
    answers: Mutex<Option<Answers>>,
    /// How far they are.
    positions: Mutex<BTreeMap<MemberName, Lsn>>,
    lease: watch::Receiver<LeaseState>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Failsafe(Arc<Inner>);

impl std::fmt::Debug for Failsafe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Failsafe").field(&*self.promises()).finish()
    }
}

impl Failsafe {
    /// `lease`: whoever holds the lead promises nobody else anything.
    pub fn open(me: &MemberName, data_dir: &Path, lease: watch::Receiver<LeaseState>) -> Failsafe {
        let mut path = data_dir.as_os_str().to_owned();
        path.push(".surus.failsafe");
        let path = PathBuf::from(path);
        let before = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        let longest = Duration::from_millis(before.unwrap_or(0));
        let silent = (!longest.is_zero()).then(|| boot_now() + longest);
        let inner = Inner {
            me: me.clone(),
            path,
            promises: Mutex::new(Promises::new(silent)),
            longest: watch::Sender::new(longest),
            wanted: watch::Sender::new(longest),
            heard: Mutex::new(None),
            answers: Mutex::new(None),
            positions: Mutex::default(),
            lease,
        };
        Failsafe(Arc::new(inner))
    }

    /// For an agent that ends while its process goes on: it promises nothing any more, however late it is asked. What was
    /// promised is for the next one to keep.
    pub fn hand_over(&self) -> Promises {
        let over = boot_now() + Duration::from_secs(u64::from(u32::MAX));
        std::mem::replace(&mut *self.promises(), Promises::new(Some(over)))
    }

    /// Before anybody can ask.
    pub fn inherit(&self, promises: Promises) {
        *self.promises() = promises;
    }

    /// For tests: of a member that promises whatever it can.
    #[cfg(test)]
    pub fn of(me: &str) -> Failsafe {
        let lease = watch::Sender::new(LeaseState::default()).subscribe();
        let failsafe = Failsafe::open(&me.into(), Path::new("/nowhere/data"), lease);
        failsafe.0.longest.send_replace(Duration::from_secs(3600));
        failsafe
    }

    fn promises(&self) -> MutexGuard<'_, Promises> {
        self.0.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the facts of a step.
    pub fn with<T>(&self, look: impl FnOnce(&Promises) -> T) -> T {
        look(&self.promises())
    }

    /// Members may vouch for each other: from here on promises last as long as this ttl.
    pub fn allow(&self, ttl: Duration) {
        let wanted = ttl.max(CONSENT);
        let inner = self.0.clone();
        let begins = inner.wanted.send_if_modified(|before| {
            let more = *before < wanted;
            if more {
                *before = wanted;
            }
            more
        });
        if !begins {
            return;
        }
        // Without a runtime there is nobody to promise anything to.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            let new = inner.path.with_extension("failsafe.new");
            let written = std::fs::write(&new, format!("{}\n", wanted.as_millis()))
                .and_then(|()| std::fs::File::open(&new)?.sync_all())
                .and_then(|()| std::fs::rename(&new, &inner.path));
            match written {
                Ok(()) => {
                    _ = inner.longest.send_if_modified(|longest| {
                        let more = *longest < wanted;
                        if more {
                            *longest = wanted;
                        }
                        more
                    })
                }
                Err(e) => {
                    warn!(
                        "this member does not vouch for a primary without the store, nor consent to another: {} could not \
                         be written ({e}); make its directory writable and restart the agent",
                        inner.path.display()
                    );
                }
            }
        });
    }

    /// Promises it, unless that is impossible; `Err` says why, for whoever asked.
    pub fn give(&self, to: &MemberName, kind: Kind, length: Duration) -> Result<(), String> {
        let me = &self.0.me;
        if length > *self.0.longest.borrow() {
            return Err(format!("{me} cannot promise anything for {:.0} s yet", length.as_secs_f64()));
        }
        let mut promises = self.promises();
        // Looked at while nobody can promise anything to me: whoever takes the lead on a promise makes it firm before.
        let now = boot_now();
        let leads = self.0.lease.borrow().lead.is_some_and(|lead| now < lead.until);
        if leads && to != me {
            return Err("Running as a leader".into());
        }
        promises.give(me, to, kind, length, now)
    }

    /// To myself. `firm`: it is broken for nobody.
    pub fn give_myself(&self, firm: bool) -> bool {
        let kind = if firm { Kind::Vouch } else { Kind::Consent };
        match self.give(&self.0.me, kind, CONSENT) {
            Ok(()) => true,
            Err(why) => {
                info!("not asking for consent to lead: {why}");
                false
            }
        }
    }

    pub fn hears(&self, request: FailsafeRequest) {
        let heard = Heard { at: boot_now(), request };
        *self.0.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
    }

    /// The primary that this member vouches for now.
    pub fn vouches_for(&self) -> Option<Promise> {
        let now = boot_now();
        let promises = self.promises();
        promises.in_force(now).filter(|p| p.kind == Kind::Vouch && p.to != self.0.me).cloned()
    }

    /// What that primary has said last, while this member vouches for it.
    pub fn heard(&self) -> Option<Heard> {
        let to = self.vouches_for()?.to;
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|h| h.request.name == to)
    }

    /// How far members are that vouched for this one, since it cannot see that in the store.
    pub fn positions(&self) -> BTreeMap<MemberName, Lsn> {
        self.0.positions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answered(&self, answers: Option<Answers>) {
        *self.0.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }

    fn is_at(&self, name: &MemberName, position: Lsn) {
        self.0.positions.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), position);
    }

    /// Failsafe mode keeps a primary going: this one, or one that this member vouches for.
    pub fn is_active(&self) -> bool {
        let now = boot_now();
        let vouched = self.0.lease.borrow().vouched.as_ref().is_some_and(|v| now < v.until);
        vouched || self.vouches_for().is_some()
    }
}

/// What the asking task works with; replaced by the loop after each step.
#[derive(Clone)]
pub struct Want {
    pub api: Arc<surus_api::Client>,
    pub timing: Timing,
    pub electors: Option<Electors>,
    pub request: FailsafeRequest,
}

/// Asks others to vouch for this member while its lead hangs on that. On a task of its own, beside the lease keeper: it must
/// not wait for a decision, a disk or PostgreSQL.
pub struct Asker {
    failsafe: Failsafe,
    lease: LeaseKeeper,
    want: watch::Receiver<Option<Want>>,
    asking: Asking,
    answers: (mpsc::Sender<Said>, mpsc::Receiver<Said>),
}

/// To the question of this moment. Who vouches may say how far it is.
type Said = (BootTime, MemberName, Result<Option<Lsn>, String>);

impl Asker {
    pub fn start(failsafe: Failsafe, lease: LeaseKeeper, want: watch::Receiver<Option<Want>>) {
        let asker = Asker { failsafe, lease, want, asking: Asking::default(), answers: mpsc::channel(64) };
        tokio::spawn(asker.run());
    }

    async fn run(mut self) {
        let mut state = self.lease.subscribe();
        loop {
            let needed = Asking::needed(&state.borrow_and_update());
            let want = self.want.borrow_and_update().clone();
            let electors = want.as_ref().and_then(|w| w.electors.clone()).filter(|_| needed);
            if !needed {
                self.asking.over(&state.borrow());
                self.failsafe.answered(None);
            }
            let now = boot_now();
            if let (Some(electors), Some(want)) = (electors.clone(), &want)
                && self.asking.due() <= now
            {
                self.ask(electors, want, now);
                self.pass_on(want).await;
            }
            let due = self.asking.due().since(boot_now());
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                changed = self.want.changed() => if changed.is_err() { return },
                Some((sent, name, said)) = self.answers.1.recv() => {
                    if let Ok(Some(position)) = &said {
                        self.failsafe.is_at(&name, *position);
                    }
                    self.asking.answered(sent, name, said.map(|_| ()));
                    self.failsafe.answered(self.asking.answers());
                    if let Some(want) = &want {
                        self.pass_on(want).await;
                    }
                }
                () = tokio::time::sleep(due), if electors.is_some() => {}
            }
        }
    }

    fn ask(&mut self, electors: Electors, want: &Want, now: BootTime) {
        let me = &want.request.name;
        let me_too = match self.failsafe.give(me, Kind::Vouch, want.timing.ttl) {
            Ok(()) => true,
            Err(why) => {
                warn!("this member cannot vouch for itself: {why}");
                false
            }
        };
        let whom: BTreeMap<MemberName, String> = self.asking.begin(me, electors, me_too, now);
        self.failsafe.answered(self.asking.answers());
        for (name, url) in whom {
            let (api, tx, request) = (want.api.clone(), self.answers.0.clone(), want.request.clone());
            tokio::spawn(async move {
                let said = vouches(&api, &url, &request).await;
                let _ = tx.send((now, name, said)).await;
            });
        }
    }

    async fn pass_on(&mut self, want: &Want) {
        if let Some((sent, by, epoch)) = self.asking.enough(&want.timing) {
            self.lease.vouched(sent, want.timing.ttl, by, epoch).await;
        }
    }
}

/// As Patroni asks, and with the same answer (`spec/ha.md §8.2`).
async fn vouches(api: &surus_api::Client, url: &str, request: &FailsafeRequest) -> Result<Option<Lsn>, String> {
    let answer = api.post(url, "/failsafe", request, ANSWER).await.map_err(|e| e.to_string())?;
    match (answer.code, answer.body.trim()) {
        (200, "Accepted") => Ok(answer.header("lsn").and_then(|at| at.trim().parse().ok()).map(Lsn)),
        (code, text) => Err(format!("{code}: {}", text.chars().take(200).collect::<String>())),
    }
}

/// Asks another member for its consent that I lead.
pub async fn consents(api: &surus_api::Client, url: &str, me: &MemberName) -> Result<(), String> {
    let length = u64::try_from(CONSENT.as_millis()).unwrap_or(u64::MAX);
    let request = surus_api::ConsentRequest { name: me.clone(), length_ms: length };
    let answer = api.post(url, "/consent", &request, ANSWER).await.map_err(|e| e.to_string())?;
    match (answer.code, answer.body.trim()) {
        (200, "Accepted") => Ok(()),
        (code, text) => Err(format!("{code}: {}", text.chars().take(200).collect::<String>())),
    }
}

#[cfg(test)]
mod tests;
