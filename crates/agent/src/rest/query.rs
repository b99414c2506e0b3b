//! The query string of a health check (`spec/rest-api.md §3.4`).

use serde_json::Value;
use surus_config::parse_bytes;
use surus_core::cluster::Tags;

/// Decoded parameters: the first of a name counts, those without a value do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: Option<&str>) -> Query {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.unwrap_or_default().split('&') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (decode(key), decode(value));
            if !value.is_empty() && !pairs.iter().any(|(k, _)| *k == key) {
                pairs.push((key, value));
            }
        }
        Query(pairs)
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The largest replay lag asked for, in bytes. Not understood is the same as not given.
    pub fn lag(&self) -> Option<u64> {
        self.get("lag").and_then(parse_bytes).and_then(|lag| u64::try_from(lag).ok())
    }

    /// Every `tag_<name>=<value>` holds for these published tags.
    pub fn tags_match(&self, tags: &Tags) -> bool {
        self.0.iter().filter_map(|(k, v)| Some((k.strip_prefix("tag_")?, v))).all(|(name, asked)| {
            match tags.0.get(name) {
                None => false,
                Some(Value::String(tag)) => tag == asked,
                Some(other) => other.to_string().to_lowercase() == *asked,
            }
        })
    }
}

fn decode(text: &str) -> String {
    let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = match bytes[i..] {
            [b'%', ref rest @ ..] => rest.first().and_then(hex).zip(rest.get(1).and_then(hex)),
            _ => None,
        };
        match (escape, bytes[i]) {
            (Some((high, low)), _) => {
                out.push(high * 16 + low);
                i += 3;
                continue;
            }
            (None, b'+') => out.push(b' '),
            (None, other) => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lag_that_is_not_understood_is_no_limit() {
        for (text, want) in [("lag=0", Some(0)), ("lag=16kB", Some(16384)), ("lag=10mb", None), ("lag=-1", None)] {
            assert_eq!(Query::parse(Some(text)).lag(), want, "{text}");
        }
    }

    #[test]
    fn parameters_are_decoded_and_the_first_wins() {
        let query = Query::parse(Some("lag=10MB&lag=5&replication_state=in+archive%20recovery&empty=&x=%zz&%C3%A9=1"));
        assert_eq!(query.lag(), Some(10 << 20));
        assert_eq!(query.get("replication_state"), Some("in archive recovery"));
        assert_eq!(query.get("empty"), None);
        assert_eq!(query.get("x"), Some("%zz"));
        assert_eq!(query.get("é"), Some("1"));
        assert_eq!(Query::parse(None), Query::default());
    }

    #[test]
    fn tags_compare_as_text() {
        let tags = Tags(json!({"zone": "A", "fast": true, "n": 1, "f": 1.4}).as_object().cloned().unwrap());
        for (query, want) in [
            ("tag_zone=A", true),
            ("tag_zone=a", false),
            ("tag_fast=true", true),
            ("tag_n=1&tag_f=1.4", true),
            ("tag_n=2", false),
            ("tag_unknown=1", false),
            ("tag_zone=A&tag_fast=false", false),
            ("lag=1", true),
        ] {
            assert_eq!(Query::parse(Some(query)).tags_match(&tags), want, "{query}");
        }
    }
}
