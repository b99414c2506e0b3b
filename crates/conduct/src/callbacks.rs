//! Which of the user's callbacks is due when, and with which role (`spec/postgres.md §11`).
//!
//! Procedures and the loop say what became of the server; what to run follows from that alone, so that a server that
//! was told to start and came up later, by itself, is announced once and in the same words.

use surus_core::BootTime;
use surus_core::cluster::MemberRole;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Start,
    Stop,
    Restart,
    Reload,
    RoleChange,
}

impl Action {
    /// As it is called in the configuration and in the command's first argument.
    pub fn name(self) -> &'static str {
        match self {
            Action::Start => "on_start",
            Action::Stop => "on_stop",
            Action::Restart => "on_restart",
            Action::Reload => "on_reload",
            Action::RoleChange => "on_role_change",
        }
    }
}

/// What became of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It is about to be stopped in order to be started again.
    Restarting,
    /// It is about to be stopped so that somebody else can lead.
    HandingOver,
    /// No server runs any more.
    Stopped,
    /// It takes connections after it was started.
    Up {
        role: MemberRole,
    },
    /// The standby accepts writes now.
    Promoted,
    /// It holds the lead and could not be started as the primary.
    StartFailed,
    Reloaded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub action: Action,
    pub role: MemberRole,
}

/// What the callbacks were told so far.
#[derive(Debug, Default)]
pub struct Callbacks {
    /// What the server is, or was last.
    role: Option<MemberRole>,
    up: bool,
    restarting: bool,
    handing_over: bool,
    /// Anything but a reload was told since the agent started.
    told: bool,
    /// When something was last heard from a procedure.
    heard: BootTime,
}

impl Callbacks {
    pub fn happened(&mut self, what: Happened, now: BootTime) -> Option<Call> {
        self.heard = now;
        match what {
            Happened::Restarting => {
                self.restarting = true;
                None
            }
            Happened::HandingOver => {
                self.handing_over = true;
                None
            }
            Happened::Stopped => self.stopped(),
            Happened::Up { role } => Some(self.came_up(role)),
            Happened::Promoted => {
                self.up = true;
                Some(self.changed_role(MemberRole::Primary))
            }
            Happened::StartFailed => {
                (self.up, self.restarting) = (false, false);
                (self.role != Some(MemberRole::Demoted)).then(|| self.changed_role(MemberRole::Demoted))
            }
            Happened::Reloaded => self.role.filter(|_| self.up).map(|role| Call { action: Action::Reload, role }),
        }
    }

    /// What the loop sees while no procedure works on the server: as what it serves, known as of a time.
    pub fn seen(&mut self, running: bool, serving: Option<(MemberRole, BootTime)>) -> Option<Call> {
        if !running {
            // It ended without being told to: nothing is called for a crash.
            self.up = false;
            return None;
        }
        // A reading from before the end of a procedure says what the server was.
        let (role, _) = serving.filter(|(_, at)| *at > self.heard)?;
        if !self.up {
            return Some(self.came_up(role));
        }
        (self.restarting, self.handing_over) = (false, false);
        (self.role != Some(role)).then(|| self.changed_role(role))
    }

    fn stopped(&mut self) -> Option<Call> {
        let (was_up, handing_over) = (std::mem::take(&mut self.up), std::mem::take(&mut self.handing_over));
        if !was_up {
            return None;
        }
        if handing_over && self.role == Some(MemberRole::Primary) {
            self.role = Some(MemberRole::Demoted);
        }
        (!self.restarting).then(|| self.call(Action::Stop))
    }

    fn came_up(&mut self, role: MemberRole) -> Call {
        let gave_up_leading =
            role != MemberRole::Primary && matches!(self.role, Some(MemberRole::Primary | MemberRole::Demoted));
        let restarted = std::mem::take(&mut self.restarting);
        self.up = true;
        if self.told && gave_up_leading {
            return self.changed_role(role);
        }
        self.role = Some(role);
        self.call(if restarted { Action::Restart } else { Action::Start })
    }

    fn changed_role(&mut self, role: MemberRole) -> Call {
        self.role = Some(role);
        self.call(Action::RoleChange)
    }

    fn call(&mut self, action: Action) -> Call {
        self.told = true;
        Call { action, role: self.role.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Happened = Happened::Up { role: MemberRole::Primary };
    const UP_AS_STANDBY: Happened = Happened::Up { role: MemberRole::Replica };
    const UP_AS_STANDBY_LEADER: Happened = Happened::Up { role: MemberRole::StandbyLeader };

    fn told(events: &[Happened]) -> Vec<String> {
        let mut callbacks = Callbacks::default();
        let calls = events.iter().filter_map(|e| callbacks.happened(*e, BootTime::from_millis(1)));
        calls.map(|c| format!("{} {}", c.action.name(), c.role.as_str())).collect()
    }

    #[test]
    fn every_way_a_server_goes() {
        use Happened::{HandingOver, Promoted, Reloaded, Restarting, StartFailed, Stopped};
        let cases: &[(&[Happened], &[&str])] = &[
            (&[UP], &["on_start primary"]),
            (&[UP_AS_STANDBY, Stopped], &["on_start replica", "on_stop replica"]),
            (&[UP, Restarting, Stopped, UP], &["on_start primary", "on_restart primary"]),
            (&[UP_AS_STANDBY, Promoted], &["on_start replica", "on_role_change primary"]),
            (
                &[UP, HandingOver, Stopped, UP_AS_STANDBY],
                &["on_start primary", "on_stop demoted", "on_role_change replica"],
            ),
            // Not planned: the lead goes after the stop.
            (&[UP, Stopped, UP_AS_STANDBY], &["on_start primary", "on_stop primary", "on_role_change replica"]),
            (&[UP, HandingOver, Stopped, UP], &["on_start primary", "on_stop demoted", "on_start primary"]),
            (&[UP, Restarting, Stopped, UP_AS_STANDBY], &["on_start primary", "on_role_change replica"]),
            (
                &[UP, Restarting, Stopped, StartFailed, StartFailed, UP_AS_STANDBY],
                &["on_start primary", "on_role_change demoted", "on_role_change replica"],
            ),
            (&[UP_AS_STANDBY, Stopped, UP_AS_STANDBY], &["on_start replica", "on_stop replica", "on_start replica"]),
            (&[UP, Reloaded], &["on_start primary", "on_reload primary"]),
            // A cluster that is demoted, and promoted again.
            (
                &[UP, Stopped, UP_AS_STANDBY_LEADER, Restarting, Stopped, UP_AS_STANDBY_LEADER, Promoted],
                &[
                    "on_start primary",
                    "on_stop primary",
                    "on_role_change standby_leader",
                    "on_restart standby_leader",
                    "on_role_change primary",
                ],
            ),
            // Creating a cluster tells nothing before its end, and a stop of nothing is none.
            (&[Stopped, Reloaded, Restarting, Stopped], &[]),
            (&[UP, Stopped, Stopped], &["on_start primary", "on_stop primary"]),
        ];
        for (events, calls) in cases {
            assert_eq!(told(events), *calls, "{events:?}");
        }
    }

    #[test]
    fn what_the_loop_sees() {
        let at = BootTime::from_millis;
        let mut callbacks = Callbacks::default();
        let see = |callbacks: &mut Callbacks, running, serving: Option<(bool, u64)>| {
            let role = |primary| if primary { MemberRole::Primary } else { MemberRole::Replica };
            let serving = serving.map(|(primary, ms)| (role(primary), at(ms)));
            callbacks.seen(running, serving).map(|c| format!("{} {}", c.action.name(), c.role.as_str()))
        };
        // A server that was found running, or that came up by itself after a start that was not waited for.
        assert_eq!(see(&mut callbacks, true, None), None);
        assert_eq!(see(&mut callbacks, true, Some((false, 5))).as_deref(), Some("on_start replica"));
        assert_eq!(see(&mut callbacks, true, Some((false, 6))), None);
        // A reading of before the promotion is no demotion.
        callbacks.happened(Happened::Promoted, at(10));
        assert_eq!(see(&mut callbacks, true, Some((false, 9))), None);
        assert_eq!(see(&mut callbacks, true, Some((true, 11))), None);
        // It crashed and is a standby now.
        assert_eq!(see(&mut callbacks, false, None), None);
        assert_eq!(see(&mut callbacks, true, Some((false, 20))).as_deref(), Some("on_role_change replica"));
        // A standby that leads a standby cluster from now on.
        let leads = callbacks.seen(true, Some((MemberRole::StandbyLeader, at(21))));
        assert_eq!(leads.map(|c| (c.action, c.role)), Some((Action::RoleChange, MemberRole::StandbyLeader)));
        // Promoted by hand.
        assert_eq!(see(&mut callbacks, true, Some((true, 21))).as_deref(), Some("on_role_change primary"));
        callbacks.happened(Happened::Restarting, at(30));
        callbacks.happened(Happened::Stopped, at(31));
        assert_eq!(see(&mut callbacks, true, Some((true, 40))).as_deref(), Some("on_restart primary"));
        // A restart that was given up before the stop is none.
        callbacks.happened(Happened::Restarting, at(50));
        assert_eq!(see(&mut callbacks, true, Some((true, 51))), None);
        assert_eq!(callbacks.happened(Happened::Stopped, at(52)).map(|c| c.action), Some(Action::Stop));
    }
}
