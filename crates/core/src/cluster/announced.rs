use serde::{Deserialize, Serialize};

use super::ClusterView;
use crate::ids::{MemberName, Timeline};

/// How many numbers a promotion leaves out at the most. A key that asks for more was not written by members that took
/// part here, and is worth less than a promotion.
pub const MOST_SKIPPED: u32 = 1000;

/// The `timeline` key: the highest number that a member has set out to give a timeline. Not known to Patroni.
///
/// PostgreSQL gives a new timeline the first number that it has not seen. A primary that was promoted while nobody could
/// receive its timeline, and whose successor gives the same number to another one, cannot be told from a healthy standby
/// by anything that PostgreSQL or `pg_rewind` look at. So a number is written down before a promotion is ordered, and
/// stays there, whatever becomes of that promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    pub timeline: Timeline,
    pub leader: MemberName,
}

impl Announced {
    pub fn parse(text: &str) -> Result<Announced, String> {
        serde_json::from_str(text)
            .ok()
            .filter(|a: &Announced| a.timeline.0 != 0)
            .ok_or_else(|| format!("\"{}\" does not say which timeline was announced and by whom", super::clip(text)))
    }

    pub fn to_text(&self) -> String {
        // A name and a number always make JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl ClusterView {
    /// The number for my promotion, given the one that my server would choose.
    pub fn timeline_for(&self, me: &MemberName, choice: Timeline) -> Timeline {
        let known = self.history_timeline().map_or(choice.0, |t| choice.0.max(t.0.saturating_add(1)));
        let number = match self.announced.as_ref().map(|a| &a.value) {
            // Nobody was promoted since, and here is no such timeline: that promotion came to nothing. A promotion that
            // fails again and again must not use up a number each time.
            Some(a) if a.leader == *me && a.timeline.0 >= known => a.timeline.0,
            Some(a) => known.max(a.timeline.0.saturating_add(1)),
            None => known,
        };
        Timeline(if number - choice.0 > MOST_SKIPPED { choice.0 } else { number })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{History, HistoryEntry, Versioned};
    use super::*;
    use crate::Lsn;

    fn view(announced: Option<(u32, &str)>, ended: Option<u32>) -> ClusterView {
        let entry = |timeline| HistoryEntry {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(1),
            reason: String::new(),
            timestamp: None,
            new_leader: None,
        };
        ClusterView {
            announced: announced.map(|(timeline, leader)| Versioned {
                value: Announced { timeline: Timeline(timeline), leader: leader.into() },
                version: 1,
            }),
            history: ended.map(|t| History(vec![entry(t)])),
            ..ClusterView::default()
        }
    }

    #[test]
    fn a_number_is_given_once() {
        for (choice, announced, ended, want, why) in [
            (2, None, None, 2, "a new cluster"),
            (2, Some((1, "b")), None, 2, "all is known here"),
            (2, Some((2, "b")), None, 3, "somebody took it, or may have"),
            (2, Some((7, "b")), None, 8, "there were more"),
            (2, Some((2, "a")), None, 2, "my own, and nothing came of it"),
            (3, Some((2, "a")), None, 3, "my own, and that is the timeline here"),
            (2, Some((5, "a")), None, 5, "my own, and it left numbers out"),
            (2, None, Some(2), 4, "the history tells of timeline 3, which was not announced"),
            (2, Some((2, "a")), Some(2), 4, "the same after an announcement of mine"),
            (2, Some((5, "b")), Some(2), 6, "whatever is more"),
            (4, Some((2, "b")), Some(2), 4, "the server knows best"),
            (2, Some((1001, "b")), None, 1002, "still believed"),
            (2, Some((1002, "b")), None, 2, "not believed"),
            (2, Some((u32::MAX, "b")), None, 2, "not believed"),
        ] {
            let number = view(announced, ended).timeline_for(&"a".into(), Timeline(choice));
            assert_eq!(number, Timeline(want), "{why}");
        }
    }

    #[test]
    fn the_text_of_the_key() {
        let announced = Announced { timeline: Timeline(7), leader: "node1".into() };
        assert_eq!(announced.to_text(), r#"{"timeline":7,"leader":"node1"}"#);
        assert_eq!(Announced::parse(&announced.to_text()), Ok(announced));
        assert!(Announced::parse(r#"{"timeline":7,"leader":"node1","since":1}"#).is_ok(), "fields may be added");
        for spoilt in ["", "7", "{}", r#"{"timeline":0,"leader":"a"}"#, r#"{"timeline":-1,"leader":"a"}"#] {
            assert!(Announced::parse(spoilt).is_err(), "{spoilt}");
        }
    }
}
