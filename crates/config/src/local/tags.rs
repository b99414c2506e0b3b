//! `tags` (`spec/config.md §4.10`).

use surus_core::cluster::Tags;

use crate::finding::Place;
use crate::reader::{Reader, Section, whole_number};
use crate::tree::{Node, NodeValue};

pub(super) fn read(root: &mut Section<'_>, r: &mut Reader) -> Tags {
    let mut s = root.section(r, "tags");
    let Some(serde_json::Value::Object(map)) = s.node().map(Node::to_json) else { return Tags::default() };
    for key in ["failover_priority", "sync_priority"] {
        s.int(r, key, "a whole number", i64::from(i32::MIN)..=i64::from(i32::MAX));
    }
    for key in ["nofailover", "nosync", "noloadbalance", "clonefrom", "nostream"] {
        if let Some(node) = s.take(key)
            && let NodeValue::Text(text) = &node.value
            && key != "nostream"
            && matches!(crate::parse_bool(text.trim()), Some(false))
        {
            r.warn(
                &node.place,
                &s.below(key),
                format!("is the text {text:?} and not a boolean, and any text counts as true; remove the quotes"),
            );
        }
    }
    s.text(r, "replicatefrom");
    let tags = Tags(map);
    contradiction(&mut s, r, &tags, "nofailover", "failover_priority");
    contradiction(&mut s, r, &tags, "nosync", "sync_priority");
    tags
}

fn contradiction(s: &mut Section<'_>, r: &mut Reader, tags: &Tags, switch: &str, priority: &str) {
    let (Some(node), Some(number)) = (s.take(switch), s.take(priority)) else { return };
    let Some(value) = whole_number(number) else { return };
    let on = if switch == "nofailover" { tags.nofailover() } else { tags.nosync() };
    if on == (value > 0) {
        let text = if on { "True" } else { "False" };
        let place: &Place = &node.place;
        r.warn(
            place,
            &s.below(switch),
            format!(
                "Conflicting configuration between {switch}: {text} and {priority}: {value}. Defaulting to {switch}: \
                 {text}"
            ),
        );
    }
}
