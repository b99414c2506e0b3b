use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{Lsn, Timeline};

/// One finished timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub timeline: Timeline,
    pub switch_lsn: Lsn,
    pub reason: String,
    pub timestamp: Option<String>,
    pub new_leader: Option<String>,
}

/// The `history` key.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History(pub Vec<HistoryEntry>);

impl History {
    /// What a primary on this timeline writes, given the rows of its history file. Where the numbers before its own were left
    /// out, the last of them gets a row too, with nothing in it: readers take the number after the last row for the
    /// present timeline, and a member that has one of that number, of a promotion nobody followed, for up to date.
    pub fn of(mut rows: Vec<HistoryEntry>, timeline: Timeline) -> History {
        let before = Timeline(timeline.0.saturating_sub(1));
        if before.0 > 0 && rows.last().is_none_or(|row| row.timeline < before) {
            // Who looks at the last row for who leads finds that.
            let last = rows.last();
            let (timestamp, new_leader) =
                (last.and_then(|row| row.timestamp.clone()), last.and_then(|row| row.new_leader.clone()));
            rows.push(HistoryEntry {
                timeline: before,
                switch_lsn: Lsn(0),
                reason: "number left out".into(),
                timestamp,
                new_leader,
            });
        }
        History(rows)
    }

    pub fn parse(text: &str) -> Result<History, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON ({e})"))?;
        let Value::Array(rows) = value else { return Err("is JSON but not an array".into()) };
        rows.iter()
            .map(|row| {
                entry(row)
                    .ok_or_else(|| format!("has an entry that is no history line: {}", super::clip(&row.to_string())))
            })
            .collect::<Result<_, _>>()
            .map(History)
    }

    pub fn to_text(&self) -> String {
        let rows: Vec<Value> = self
            .0
            .iter()
            .map(|e| {
                let mut row =
                    vec![Value::from(e.timeline.0), Value::from(e.switch_lsn.0), Value::from(e.reason.clone())];
                row.extend(e.timestamp.clone().map(Value::from));
                row.extend(e.new_leader.clone().map(Value::from));
                Value::from(row)
            })
            .collect();
        Value::from(rows).to_string()
    }

    pub fn current_timeline(&self) -> Timeline {
        Timeline(self.0.last().map_or(1, |e| e.timeline.0.saturating_add(1)))
    }
}

fn entry(row: &Value) -> Option<HistoryEntry> {
    let row = row.as_array().filter(|r| (3..=5).contains(&r.len()))?;
    let text = |i: usize| row.get(i).and_then(Value::as_str).map(str::to_owned);
    Some(HistoryEntry {
        timeline: Timeline::known(row[0].as_u64()?)?,
        switch_lsn: Lsn(row[1].as_u64()?),
        reason: text(2)?,
        timestamp: text(3),
        new_leader: text(4),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_entries() {
        let text = r#"[[1,25623960,"no recovery target specified","2026-07-01T10:00:00.123456+00:00","node2"],[2,25623999,"x"]]"#;
        let history = History::parse(text).unwrap();
        assert_eq!(history.to_text(), text);
        assert_eq!(history.current_timeline(), Timeline(3));
        assert_eq!(History::parse("[]").unwrap().current_timeline(), Timeline(1));
        // The number before was left out.
        let rows = |timeline| History::of(history.0.clone(), Timeline(timeline)).0;
        assert_eq!(rows(3), history.0);
        assert_eq!(rows(5)[..2], history.0);
        assert_eq!((rows(5).len(), rows(5)[2].timeline, rows(5)[2].switch_lsn), (3, Timeline(4), Lsn(0)));
        assert_eq!(History(rows(5)).current_timeline(), Timeline(5));
        assert_eq!(History::of(vec![], Timeline(1)), History::default());
        for bad in ["{}", "[1]", r#"[["x",1,"y"]]"#, "["] {
            assert!(History::parse(bad).is_err(), "{bad}");
        }
    }
}
