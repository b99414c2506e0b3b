//! Everything a task can do or learn while it runs.

use std::time::Duration;

use surus_core::cluster::{ClusterView, KeyVersion, Upstream};
use surus_core::facts::{Lead, PeerAnswer};
use surus_core::loss::{Destroying, Recorded};
use surus_core::postgres::DataDir;
use surus_core::server::{Divergence, FollowOutcome, Killed, ShutdownPosition, StartAs, StopMode, Stopped};
use surus_core::slots::{LogicalSlot, SlotCopy};
use surus_core::store::{Announce, StoreResult, TxnOutcome};
use surus_core::synchronous::Names;
use surus_core::{BootTime, SystemId, Timeline};

use super::{Phase, ReplicaMethod};
pub use crate::callbacks::Happened;

/// `Err` tells a person what happened, to what, and what to do. The work may have been done in part.
pub type Made<T = ()> = Result<T, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launched {
    /// Takes connections.
    Up { took: Duration },
    /// Runs and takes no connections yet; it goes on starting by itself. In words for operators.
    Starting(String),
}

/// The hands of one task. The agent's are its server, its store and its clock; a simulator brings its own.
///
/// What every operation promises:
///
/// - A future that is dropped before it ends leaves what it began as it is then: a server that was being started or
///   stopped goes on with that, a request may or may not reach the store.
/// - One with a `limit` ends by then, but for a disk or a machine that hangs: a procedure that must not wait for
///   those races it against a sleep.
/// - Nothing is tried again behind the caller's back.
pub trait Hands: Send + Sync {
    fn now(&self) -> BootTime;

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Measured on the clock of [`Hands::now`]: ends at once after a suspend that lasted longer.
    fn sleep_until(&self, at: BootTime) -> impl Future<Output = ()> + Send;

    /// The task was told to end as soon as it can be left. Stays so once it is.
    fn is_cancelled(&self) -> bool;

    fn cancelled(&self) -> impl Future<Output = ()> + Send;

    /// Says what the task is at.
    fn tell(&self, what: String);

    /// A part of a change of leader came to its end; `planned`: an operator asked for the change.
    fn took(&self, _phase: Phase, _planned: bool, _time: Duration) {}

    /// Tells what became of the server, for the user's callbacks. Nobody waits for those.
    fn happened(&self, _what: Happened) {}

    /// The user's command before a promotion. `Err`: there is to be none. Dropped, it is ended.
    fn pre_promote(&self) -> impl Future<Output = Made> + Send {
        async { Ok(()) }
    }

    /// The user's command before an orderly stop; what comes of it changes nothing. Dropped, it is ended.
    fn before_stop(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The lead as the lease keeper knows it at this moment. It may have ended: see its `until`.
    fn lead(&self) -> Option<Lead>;

    /// Resolves once [`Hands::lead`] is something other than `known`; at once if it is already.
    fn lead_changed(&self, known: Option<Lead>) -> impl Future<Output = ()> + Send;

    /// Takes the lead, or confirms it, by the lease keeper. `Ok(true)`: it is mine, and the keeper renews it. A lost
    /// answer is looked up; an error leaves open who has it.
    fn take_lead(&self) -> impl Future<Output = StoreResult<bool>> + Send;

    /// The timeline that was announced with the lead that I have. It may be announced although this is `None`.
    fn announced(&self) -> Option<Timeline>;

    /// Says which timeline my promotion is to begin, while I lead.
    fn announce(&self, what: Announce, limit: Duration) -> impl Future<Output = StoreResult<TxnOutcome>> + Send;

    /// Gives the lead up by the lease keeper, and in the same transaction writes the `status` key. From the moment it is
    /// sent [`Hands::lead`] is `None`, whatever comes of it; an error leaves open whether the store still shows it. May
    /// be repeated.
    fn release_lead(&self, status: Option<String>) -> impl Future<Output = StoreResult<()>> + Send;

    /// This server is left alone as far as the latest step has seen ([`crate::pause::left_alone`]): while a task runs that
    /// is not withdrawn by this member, and until then nobody takes its place.
    fn left_alone(&self) -> bool;

    /// Returns once the fence knows how long the lead is good for, and a successor of this process will: from here on this
    /// server may accept writes. `Err`: no fence works, and one is required; or what a successor reads cannot be written.
    fn arm_fence(&self) -> impl Future<Output = Made> + Send;

    /// Wins the race for creating the cluster. The claim is bound to this member's session. After
    /// [`surus_core::store::StoreError::OutcomeUnknown`] it may be mine, and ends with the session.
    fn claim_cluster(&self, limit: Duration) -> impl Future<Output = StoreResult<TxnOutcome>> + Send;

    /// The new cluster's identity, its configuration and its first leader (me) in one transaction. `Conflict`: the
    /// claim was lost, or it was applied before.
    fn found_cluster(
        &self,
        claim: KeyVersion,
        id: &SystemId,
        document: &str,
        limit: Duration,
    ) -> impl Future<Output = StoreResult<TxnOutcome>> + Send;

    /// Gives the claim back, if it is still the one made under `claim`.
    fn abandon_claim(&self, claim: KeyVersion, limit: Duration)
    -> impl Future<Output = StoreResult<TxnOutcome>> + Send;

    /// A linearisable reading: it sees every write acknowledged before it was called.
    fn read_store(&self, limit: Duration) -> impl Future<Output = StoreResult<ClusterView>> + Send;

    /// Writes the `sync` key if the lead is mine and it has this version.
    fn write_sync(
        &self,
        state: Option<String>,
        version: Option<KeyVersion>,
        limit: Duration,
    ) -> impl Future<Output = StoreResult<TxnOutcome>> + Send;

    /// Whom commits wait for, `None`: as configured. In force when it returns, or, if the server does not run, from its
    /// next start on.
    fn wait_for(&self, names: Option<&Names>) -> impl Future<Output = Made> + Send;

    /// Asks another member's agent directly how it is, once.
    fn probe(&self, api_url: &str, limit: Duration) -> impl Future<Output = Made<PeerAnswer>> + Send;

    /// Whether a connection to that server's port can be made. Has no limit of its own.
    fn reach(&self, upstream: &Upstream) -> impl Future<Output = Made> + Send;

    /// What is in the data directory. Has no limit of its own.
    fn data_dir(&self) -> impl Future<Output = DataDir> + Send;

    /// Makes a data directory, whole or not at all. Ends early, as an error, when the task is cancelled.
    fn initdb(&self) -> impl Future<Output = Made> + Send;

    /// The method that makes the data of a new cluster in place of `initdb`, if one is configured: its name.
    fn custom_bootstrap(&self) -> Option<String> {
        None
    }

    /// Has that method fill the empty data directory. What it leaves when it fails counts as empty. Ends early, as an
    /// error, when the task is cancelled.
    fn run_custom_bootstrap(&self) -> impl Future<Output = Made> + Send {
        async { Err("no bootstrap method is configured".into()) }
    }

    /// Starts the server on what the method made, and returns when recovery is over and it accepts writes, however
    /// long that takes. Reports progress; ends early, as an error, when the task is cancelled.
    fn recover_new_cluster(&self) -> impl Future<Output = Made> + Send {
        async { Err("there is nothing to recover".into()) }
    }

    /// After [`Hands::recover_new_cluster`]: the next start is that of a primary, no recovery settings stay, and the data counts.
    fn end_custom_bootstrap(&self) -> impl Future<Output = Made> + Send {
        async { Ok(()) }
    }

    /// Superuser, replication and rewind users. Idempotent.
    fn create_roles(&self) -> impl Future<Output = Made> + Send;

    /// The user's command. Ends early, as an error, when the task is cancelled.
    fn post_bootstrap(&self, command: &str) -> impl Future<Output = Made> + Send;

    /// Starts the server in a role and watches it for at most `watched`. Dropped or not ready in that time, it goes on
    /// starting. `Err`: it does not run.
    fn start(&self, role: &StartAs, watched: Duration) -> impl Future<Output = Made<Launched>> + Send;

    /// Tells the server to stop and waits for at most `limit`. [`Stopped::TimedOut`] or dropped: it was told, perhaps,
    /// and goes on stopping. Told again, it is not told otherwise, except that a harder mode wins.
    fn stop(&self, mode: StopMode, limit: Duration) -> impl Future<Output = Made<Stopped>> + Send;

    /// Kills the server with everything below it. `Ok`: no postmaster runs. `Err`: it may still.
    fn kill_hard(&self) -> impl Future<Output = Made> + Send;

    /// As [`Hands::kill_hard`], and content with processes that can do nothing any more but do not end.
    fn silence(&self) -> impl Future<Output = Made<Killed>> + Send {
        async { self.kill_hard().await.map(|()| Killed::Gone) }
    }

    /// Ends server processes that outlived their postmaster and may acknowledge a commit. `Ok`: there are none.
    fn kill_orphans(&self) -> impl Future<Output = Made> + Send;

    fn checkpoint(&self, limit: Duration) -> impl Future<Output = Made> + Send;

    /// Where a primary that was shut down cleanly ended. `None`: it was not.
    fn shutdown_position(&self) -> impl Future<Output = Made<Option<ShutdownPosition>>> + Send;

    /// The number that the server would give to a new timeline now, as far as its directory tells.
    fn next_timeline(&self) -> impl Future<Output = Made<Timeline>> + Send;

    /// Has the server leave out the numbers from the first to before the second. Does not outlive a start as a standby.
    fn skip_timelines(&self, from: Timeline, to: Timeline) -> impl Future<Output = Made> + Send;

    /// Orders the promotion of a running standby. Once ordered it comes to its end by itself, unless the server is
    /// stopped; also after an error it may have been ordered.
    fn promote(&self) -> impl Future<Output = Made> + Send;

    /// Returns when the server accepts writes.
    fn wait_promoted(&self, limit: Duration) -> impl Future<Output = Made<Timeline>> + Send;

    /// Points a running standby at another upstream, by reload if that does.
    fn follow(
        &self,
        upstream: Option<&Upstream>,
        slot: Option<&str>,
    ) -> impl Future<Output = Made<FollowOutcome>> + Send;

    /// Reads logical slots of a running primary; those it does not have are left out.
    fn fetch_slots(
        &self,
        from: &Upstream,
        slots: &[LogicalSlot],
        limit: Duration,
    ) -> impl Future<Output = Made<Vec<SlotCopy>>> + Send;

    /// Puts copies of slots into the data directory of a server that does not run, each whole or not at all.
    fn put_slots(&self, copies: Vec<SlotCopy>) -> impl Future<Output = Made> + Send;

    /// Compares local history with the upstream's. `Err`: cannot be told now.
    fn divergence(&self, from: &Upstream, limit: Duration) -> impl Future<Output = Made<Divergence>> + Send;

    /// In the order they are to be tried.
    fn replica_methods(&self) -> Vec<ReplicaMethod> {
        vec![ReplicaMethod::basebackup()]
    }

    /// The same for a copy of the remote node of a standby cluster.
    fn remote_methods(&self) -> Vec<ReplicaMethod> {
        vec![ReplicaMethod::basebackup()]
    }

    /// Makes the data directory a copy by this method, whole or not at all: what it leaves when it fails counts as
    /// empty. Refused when there is anything in it, unless the method keeps data. Reports progress; ends early, as an
    /// error, when the task is cancelled.
    fn create_replica(&self, _method: &ReplicaMethod, from: Option<&Upstream>) -> impl Future<Output = Made> + Send {
        async move {
            match from {
                Some(from) => self.basebackup(from).await,
                None => Err("a copy needs a member to copy from".into()),
            }
        }
    }

    /// Fills the empty data directory from another member, whole or not at all. Reports progress; ends early, as an
    /// error, when the task is cancelled.
    fn basebackup(&self, from: &Upstream) -> impl Future<Output = Made> + Send;

    /// Writes down what only the stopped server here has against a primary, and keeps its log. `Err`: there is, or may
    /// be, something, and it could not be written down. What the archive has to give may take `limit` for each segment. Ends early, as an error, when the task is cancelled.
    fn record_loss(
        &self,
        against: &Upstream,
        destroying: Destroying,
        limit: Duration,
    ) -> impl Future<Output = Made<Recorded>> + Send;

    /// Puts the rows themselves beside the receipt that was written last, as far as that goes in half a minute; in words.
    /// May leave the stopped server in need of recovery. `None`: there is nothing to do.
    fn keep_lost_rows(&self) -> impl Future<Output = Made<Option<String>>> + Send {
        async { Ok(None) }
    }

    /// Archives what the stopped server has not, each segment within `limit`; returns how many. Ends early, as an
    /// error, when the task is cancelled.
    fn archive_pending(&self, limit: Duration) -> impl Future<Output = Made<usize>> + Send;

    /// Archives the segment with the checkpoint of a server that was shut down, as far as it is written: its name, if
    /// there is an archive.
    fn archive_shutdown(&self, _limit: Duration) -> impl Future<Output = Made<Option<String>>> + Send {
        async { Ok(None) }
    }

    /// Crash recovery of the stopped server, where it did not shut down. `false`: it did. Ends early, as an error, when
    /// the task is cancelled.
    fn recover(&self) -> impl Future<Output = Made<bool>> + Send;

    /// Makes the stopped server's data directory fit to follow. An error can leave one that is of no use. What the
    /// archive has to give may take `limit` for each segment. Reports progress; ends early, as an error, when the task
    /// is cancelled.
    fn rewind(&self, from: &Upstream, limit: Duration) -> impl Future<Output = Made> + Send;

    /// For good.
    fn remove_data_dir(&self) -> impl Future<Output = Made> + Send;

    /// The data directory of a cluster that was not founded goes out of the way; returns what became of it, in words.
    fn give_up_new_data(&self) -> impl Future<Output = Made<String>> + Send {
        async { self.move_data_dir_aside().await.map(|path| format!("moved to {path}")) }
    }

    /// Renames it; returns where to.
    fn move_data_dir_aside(&self) -> impl Future<Output = Made<String>> + Send;
}
