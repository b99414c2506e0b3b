//! `tags` (`spec/config.md §4.10`).

use surus_core::cluster::Tags;

use crate::reader::{Reader, Section, whole_number};
use crate::tree::{Node, NodeValue};

pub(super) fn read(root: &Section<'_>, r: &mut Reader) -> Tags {
    let s = root.section("tags");
    let Some(serde_json::Value::Object(map)) = s.node().map(Node::to_json) else { return Tags::default() };
    for key in ["nofailover", "nosync", "noloadbalance", "clonefrom"] {
        if let Some(node) = s.take(key)
            && let NodeValue::Text(text) = &node.value
            && matches!(crate::parse_bool(text.trim()), Some(false))
        {
            r.warn(
                &node.place,
                &s.below(key),
                format!("is the text {text:?} and not a boolean, and any text counts as true; remove the quotes"),
            );
        }
    }
    let tags = Tags(map);
    contradiction(&s, r, "nofailover", tags.nofailover(), "failover_priority");
    contradiction(&s, r, "nosync", tags.nosync(), "sync_priority");
    tags
}

fn contradiction(s: &Section<'_>, r: &mut Reader, switch: &str, on: bool, priority: &str) {
    let (Some(node), Some(number)) = (s.take(switch), s.take(priority)) else { return };
    let Some(value) = whole_number(number) else { return };
    if on == (value > 0) {
        let text = if on { "True" } else { "False" };
        r.warn(
            &node.place,
            &s.below(switch),
            format!(
                "Conflicting configuration between {switch}: {text} and {priority}: {value}. Defaulting to {switch}: \
                 {text}"
            ),
        );
    }
}
