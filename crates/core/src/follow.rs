//! Whom a standby follows (`spec/ha.md §11`).

use crate::cluster::{ClusterView, Member, Tags, Upstream};
use crate::ids::MemberName;
use crate::postgres::Observed;
use crate::settings::ClusterSettings;

/// What to stream from: the member of `replicatefrom` while it serves, else the leader. The leader of a standby cluster,
/// and everybody while it has none, streams from the remote node. `away` does not serve, whatever it publishes.
pub fn upstream(
    view: &ClusterView,
    me: &MemberName,
    leads: bool,
    away: Option<&MemberName>,
    tags: &Tags,
    settings: &ClusterSettings,
) -> Option<Upstream> {
    if tags.nostream() {
        return None;
    }
    if settings.standby_cluster && (leads || view.leader.is_none() && !settings.pause) {
        return settings.remote.clone();
    }
    let leader = view.leader_member().filter(|m| m.name != *me);
    let chosen = source(view, me, tags)
        .filter(|m| Some(&m.name) == view.leader_name() || m.is_running() && Some(&m.name) != away);
    chosen.and_then(Member::upstream).or_else(|| leader.and_then(Member::upstream))
}

/// The member of `replicatefrom`, if it is known and leads to the leader.
pub fn source<'a>(view: &'a ClusterView, me: &MemberName, tags: &Tags) -> Option<&'a Member> {
    tags.replicatefrom().and_then(|name| view.members.get(&name)).filter(|m| m.name != *me && feeds(view, m, me))
}

/// The slot that is used there.
pub fn slot(upstream: Option<&Upstream>, me: &MemberName, settings: &ClusterSettings) -> Option<String> {
    let upstream = upstream.filter(|_| settings.use_slots)?;
    if upstream.remote { settings.remote_slot.clone() } else { Some(me.slot_name()) }
}

/// Following `member` never leads back to `me`.
fn feeds(view: &ClusterView, member: &Member, me: &MemberName) -> bool {
    let mut at = member;
    for _ in 0..=view.members.len() {
        match at.tags.replicatefrom().and_then(|n| view.members.get(&n)) {
            Some(next) if next.name == *me => return false,
            Some(next) => at = next,
            None => return true,
        }
    }
    false
}

/// The running standby is configured to follow exactly this upstream.
pub fn follows(observed: &Observed, upstream: Option<&Upstream>, slot: Option<&str>) -> bool {
    let conninfo = observed.primary_conninfo.as_deref().unwrap_or_default();
    match upstream {
        None => conninfo.trim().is_empty(),
        Some(upstream) => {
            conninfo_value(conninfo, "host").as_deref() == Some(upstream.host.as_str())
                && conninfo_value(conninfo, "port").map_or(upstream.port == 5432, |p| p == upstream.port.to_string())
                && observed.primary_slot_name.as_deref().filter(|s| !s.is_empty()) == slot
        }
    }
}

/// A value out of a libpq `key=value` string, with its quoting undone.
pub fn conninfo_value(conninfo: &str, wanted: &str) -> Option<String> {
    let mut chars = conninfo.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        chars.peek()?;
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace() || *c == '=').is_some() {
            // A value follows the first equals sign; an empty unquoted value cannot be told apart.
        }
        let mut value = String::new();
        if chars.next_if_eq(&'\'').is_some() {
            while let Some(c) = chars.next() {
                match c {
                    '\\' => value.extend(chars.next()),
                    '\'' => break,
                    c => value.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                if c == '\\' {
                    value.extend(chars.next());
                } else {
                    value.push(c);
                }
            }
        }
        if key == wanted {
            return Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Leader, MemberState};

    fn view(members: &[(&str, Option<&str>)], leader: &str) -> ClusterView {
        let mut view = ClusterView {
            leader: Some(Leader { name: leader.into(), version: 1, lease: None }),
            ..ClusterView::default()
        };
        for (name, from) in members {
            let mut member = Member { state: MemberState::Running, ..Member::unknown((*name).into()) };
            member.conn_url = Some(format!("postgres://{name}:5432/postgres"));
            if let Some(from) = from {
                member.tags.0.insert("replicatefrom".into(), (*from).into());
            }
            view.members.insert((*name).into(), member);
        }
        view
    }

    fn of(view: &ClusterView, me: &str) -> Option<String> {
        let tags = view.members[&MemberName::from(me)].tags.clone();
        upstream(view, &me.into(), false, None, &tags, &ClusterSettings::default()).map(|u| u.host)
    }

    #[test]
    fn the_leader_or_the_named_member() {
        let v = view(&[("a", None), ("b", None), ("c", Some("b")), ("d", Some("gone"))], "a");
        assert_eq!(of(&v, "a"), None);
        assert_eq!(of(&v, "b").as_deref(), Some("a"));
        assert_eq!(of(&v, "c").as_deref(), Some("b"));
        assert_eq!(of(&v, "d").as_deref(), Some("a"));
    }

    #[test]
    fn a_source_that_does_not_serve_is_replaced_by_the_leader() {
        let mut v = view(&[("a", None), ("b", None), ("c", Some("b"))], "a");
        let (me, tags) = (MemberName::from("c"), v.members[&MemberName::from("c")].tags.clone());
        let settings = ClusterSettings::default();
        let of = |v: &ClusterView, away: Option<&str>| {
            upstream(v, &me, false, away.map(MemberName::from).as_ref(), &tags, &settings).map(|u| u.host)
        };
        assert_eq!(of(&v, None).as_deref(), Some("b"));
        assert_eq!(of(&v, Some("b")).as_deref(), Some("a"));
        assert_eq!(of(&v, Some("d")).as_deref(), Some("b"), "another one than is asked for now");
        v.members.get_mut(&MemberName::from("b")).unwrap().state = MemberState::Starting;
        assert_eq!(of(&v, None).as_deref(), Some("a"));
        // The leader is followed in any case.
        v.leader = Some(Leader { name: "b".into(), version: 2, lease: None });
        assert_eq!(of(&v, Some("b")).as_deref(), Some("b"));
    }

    #[test]
    fn the_remote_node_of_a_standby_cluster() {
        let mut v = view(&[("a", None), ("b", None), ("c", Some("b"))], "a");
        let remote = ClusterSettings {
            standby_cluster: true,
            remote: Some(Upstream::remote("x,y", 5433)),
            remote_slot: Some("site".into()),
            ..ClusterSettings::default()
        };
        let of = |v: &ClusterView, me: &str, leads: bool, settings: &ClusterSettings| {
            let tags = v.members[&MemberName::from(me)].tags.clone();
            upstream(v, &me.into(), leads, None, &tags, settings)
        };
        let host = |u: &Option<Upstream>| u.as_ref().map(|u| u.host.clone());
        let far = of(&v, "a", true, &remote);
        assert_eq!(host(&far).as_deref(), Some("x,y"));
        assert_eq!(slot(far.as_ref(), &"a".into(), &remote).as_deref(), Some("site"));
        assert_eq!(slot(far.as_ref(), &"a".into(), &ClusterSettings { use_slots: false, ..remote.clone() }), None);
        let near = of(&v, "b", false, &remote);
        assert_eq!(
            (host(&near).as_deref(), slot(near.as_ref(), &"b".into(), &remote).as_deref()),
            (Some("a"), Some("b"))
        );
        assert_eq!(host(&of(&v, "c", false, &remote)).as_deref(), Some("b"));
        let archive = ClusterSettings { remote: None, ..remote.clone() };
        assert_eq!(of(&v, "a", true, &archive), None);
        v.leader = None;
        assert_eq!(host(&of(&v, "c", false, &remote)).as_deref(), Some("x,y"), "nobody leads");
        assert_eq!(host(&of(&v, "c", false, &ClusterSettings { pause: true, ..remote })).as_deref(), Some("b"));
    }

    #[test]
    fn a_circle_falls_back_to_the_leader() {
        let v = view(&[("a", None), ("b", Some("c")), ("c", Some("b"))], "a");
        assert_eq!(of(&v, "b").as_deref(), Some("a"));
        assert_eq!(of(&v, "c").as_deref(), Some("a"));
        let own = view(&[("a", None), ("b", Some("b"))], "a");
        assert_eq!(of(&own, "b").as_deref(), Some("a"));
    }

    #[test]
    fn conninfo_values() {
        let text = r"user=replicator passfile=/x/y host='a b\'c' port = 5433 application_name=n\ 1";
        for (key, value) in [
            ("user", Some("replicator")),
            ("host", Some("a b'c")),
            ("port", Some("5433")),
            ("application_name", Some("n 1")),
            ("dbname", None),
        ] {
            assert_eq!(conninfo_value(text, key).as_deref(), value, "{key}");
        }
        assert_eq!(conninfo_value("", "host"), None);
    }
}
